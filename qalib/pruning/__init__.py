"""Pruning: movement and magnitude pruning, and the training runs around them."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
