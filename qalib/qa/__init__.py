"""Question answering: questions in, windows, answers, exact match and F1."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, {"evaluation", "metric", "pipeline", "squad", "windows"})
