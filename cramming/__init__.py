"""Cram a text into input vectors of a frozen language model, and measure how much fits.

A companion to Kuratov, Arkhipov, Bulatov and Burtsev, *Cramming 1568 Tokens into a Single Vector and Back Again*,
ACL 2025 (arXiv 2502.13063).
"""

import warnings

from cramming.errors import CrammingError

# In a notebook, tqdm says that it lacks widgets as soon as another package imports it. Bars are plain text here.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
__all__ = ["CrammingError", "__version__"]
