"""Cram a text into input vectors of a frozen language model, and measure how much fits.

A companion to Kuratov, Arkhipov, Bulatov and Burtsev, *Cramming 1568 Tokens into a Single Vector and Back Again*,
ACL 2025 (arXiv 2502.13063). What most people need is here by its first name:

Examples:
    >>> import cramming
    >>> lm = cramming.load("tiny-llama")  # "smollm2-135m" is a real one
    >>> passages = cramming.passages("novels", lm.tokenizer, n=1, length=4)
    >>> [run] = cramming.cram(lm, passages, cramming.recipe("best", max_steps=5), progress=False)
    >>> run.mem.shape, run.steps
    (torch.Size([1, 64]), 5)
    >>> cramming.certify(lm, run.mem, passages[0].token_ids).exact
    False
"""

import os
import sys
import types
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Threads that wait for each other sleep in place of spinning: beside another busy process a step is otherwise several
# times slower. It is read when torch is loaded, and whoever sets it has the last word.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from cramming.errors import CrammingError

if TYPE_CHECKING:
    from cramming.decode import certify
    from cramming.engine import cram
    from cramming.horizon import horizon
    from cramming.models import load
    from cramming.recipes import recipe
    from cramming.results.store import Store
    from cramming.texts import passages

# In a notebook, tqdm says that it lacks widgets as soon as another package imports it. Bars are plain text here.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
__all__ = ["CrammingError", "Store", "__version__", "certify", "cram", "horizon", "load", "passages", "recipe"]

# Loaded when first asked for: torch and transformers take seconds, which `cramming --help` has no need of.
_PLACES = {
    "Store": "cramming.results.store",
    "certify": "cramming.decode",
    "cram": "cramming.engine",
    "horizon": "cramming.horizon",
    "load": "cramming.models",
    "passages": "cramming.texts",
    "recipe": "cramming.recipes",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cramming' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


class _Face(types.ModuleType):
    """This module. Here `horizon` is the function, though the module that it comes from has the same name."""

    @property
    def horizon(self) -> Any:
        """The function `cramming.horizon.horizon`."""
        return __getattr__("horizon")

    @horizon.setter
    def horizon(self, module: types.ModuleType) -> None:
        """Loading a submodule sets it as an attribute of its package."""


sys.modules[__name__].__class__ = _Face
