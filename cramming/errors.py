"""The one exception a user of this package is meant to see."""

from __future__ import annotations


class CrammingError(Exception):
    """Bad input or a broken environment, said in one line.

    The message names the value, what was expected, and the way out. The command line prints it without a
    traceback and exits with status 2.
    """
