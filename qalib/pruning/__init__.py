"""Pruning: movement, magnitude and one-shot pruning, and the runs around them."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
