"""Question answering: from questions through windows to answers, exact match and F1."""

from qalib.qa.squad import load as load_questions
from qalib.utils.lazy import attach

__getattr__, _, _public = attach(
    __name__,
    __path__,
    {
        "batching": ["LENGTH_SORTED", "PADDED", "BatchingConfig"],
        "evaluation": ["by_group", "evaluate", "no_answers", "worst"],
    },
)
__all__ = [*_public, "load_questions"]


def __dir__() -> list[str]:
    return __all__
