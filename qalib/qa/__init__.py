"""Question answering: questions in, windows, answers, exact match and F1."""

from qalib.qa import evaluation, metric, pipeline, squad, windows

__all__ = ["evaluation", "metric", "pipeline", "squad", "windows"]
