"""Pruning: movement and magnitude, and the training runs that they are part of."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
