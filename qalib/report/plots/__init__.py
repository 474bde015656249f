"""Plots: each a function from a table to a matplotlib figure, the same bytes on every run."""

from qalib.report.plots import evaluation, published, sparsity, speed, style, training

__all__ = ["evaluation", "published", "sparsity", "speed", "style", "training"]
