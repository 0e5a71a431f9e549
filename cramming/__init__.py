"""Cram a text into input vectors of a frozen language model, and measure how much fits.

A companion to Kuratov, Arkhipov, Bulatov and Burtsev, *Cramming 1568 Tokens into a Single Vector and Back Again*,
ACL 2025 (arXiv 2502.13063).
"""

from cramming.errors import CrammingError

__version__ = "0.1.0"
__all__ = ["CrammingError", "__version__"]
