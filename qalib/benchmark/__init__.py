"""Benchmark: latency side by side, over sweeps, and part by part."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    {"end_to_end", "latency", "memory", "profile", "summary", "sweep", "timing"},
    {
        "end_to_end": ["evaluation_time"],
        "latency": ["compare", "random_inputs"],
        "profile": ["breakdown", "compare_zero_patterns"],
        "summary": ["headline"],
        "sweep": ["break_even"],
    },
)
