"""Checkpoints: where they come from, how they are stored, and the BERT made from them."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
