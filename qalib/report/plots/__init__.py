"""Plots: functions from a table to a matplotlib figure, byte-identical on every run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, {"evaluation", "published", "sparsity", "speed", "style", "training"}
)
