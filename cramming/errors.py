"""The one exception a user of this package is meant to see."""

from __future__ import annotations


class CrammingError(Exception):
    """Bad input or a broken environment, said in one line.

    The message names the value, what was expected, and the way out. The command line prints it without a
    traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for a line of ours; its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
