"""Plots: each a function from a table to a matplotlib figure, the same bytes on every run."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
