"""Benchmark: latency side by side, over sweeps, and part by part."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, {"end_to_end", "latency", "profile", "summary", "sweep", "timing"}
)
