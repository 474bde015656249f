"""Benchmark: latency side by side, over sweeps, and part by part."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    __path__,
    {
        "bert_base": ["over_bert_base"],
        "end_to_end": ["evaluation_time"],
        "latency": ["compare", "random_inputs"],
        "pace": ["by_matrix"],
        "profile": ["breakdown", "compare_zero_patterns"],
        "summary": ["evaluation_headline", "headline"],
        "sweep": ["break_even"],
    },
)
