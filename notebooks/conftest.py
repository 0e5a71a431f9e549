"""Which pages nbval compares: those whose stored outputs may no longer hold, and always a few that take seconds.

``CRAMMING_PAGES=all`` has all of them compared.
"""

from __future__ import annotations

import os
from pathlib import Path

from cramming.book import execute

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = ("bound", "method", "theory")  # a horizon's bits, a whole cram, published numbers


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Pass over a page whose inputs are what its outputs were made from."""
    if collection_path.suffix != ".ipynb" or os.environ.get("CRAMMING_PAGES") == "all":
        return None
    name = collection_path.relative_to(ROOT).as_posix()
    return True if collection_path.stem not in ALWAYS and execute.holds(ROOT, name) else None
