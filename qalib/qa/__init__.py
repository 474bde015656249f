"""Question answering: from questions through windows to answers, exact match and F1."""

import lazy_loader

from qalib.qa.squad import load as load_questions

__getattr__, __dir__, _public = lazy_loader.attach(
    __name__,
    {"answering", "evaluation", "limitations", "metric", "metric_v2", "pairs", "pipeline", "spans", "squad", "windows"},
    {
        "answering": ["LENGTH_SORTED", "PADDED", "BatchingConfig"],
        "evaluation": ["by_group", "evaluate", "no_answers", "worst"],
    },
)
__all__ = [*_public, "load_questions"]
