"""Report: from measurements to tables, figures, card, pages and site."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__, {"results": ["Results", "Table"]})
