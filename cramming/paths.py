"""Where things lie: the one place that knows the layout of the repository, and what an installed wheel has instead."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from cramming.errors import CrammingError

_PACKAGE = Path(__file__).resolve().parent

# In a checkout data/ stands beside the package. A wheel holds its texts, plans and published numbers, but no results.
CHECKOUT = (_PACKAGE.parent / "pyproject.toml").is_file() and (_PACKAGE.parent / "data").is_dir()
DATA = (_PACKAGE.parent if CHECKOUT else _PACKAGE) / "data"
PAPER = DATA / "paper"  # published numbers
TEXTS = DATA / "texts"
PLANS = DATA / "plans"
MODELS = DATA / "models" / "models.yaml"  # those that come in wheels
ESTIMATES = DATA / "estimates"  # what is expected of texts, by model
BENCHMARKS = DATA / "benchmarks"  # what benchmarks/ measured
# One store a plan. Without a checkout they are made in the folder one works in.
RESULTS = Path(os.environ.get("CRAMMING_RESULTS") or (DATA / "results" if CHECKOUT else "data/results"))


def cache() -> Path:
    """Where models are kept once they are converted; the environment variable CRAMMING_CACHE names another folder."""
    return Path(os.environ.get("CRAMMING_CACHE") or platformdirs.user_cache_dir("cramming")).expanduser()


def root() -> Path:
    """The checkout that the package runs from.

    Raises:
        CrammingError: If it was installed without one: the book and its notebooks are in the repository alone.
    """
    if not CHECKOUT:
        raise CrammingError("this package was installed without the book: clone the repository and work there")
    return _PACKAGE.parent
