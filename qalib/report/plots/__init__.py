"""Plots: functions from a table to a matplotlib figure, byte-identical on every run."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
