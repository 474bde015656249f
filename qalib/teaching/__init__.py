"""Teaching: one module per lesson, with what it measures and draws; exercises and their solutions."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
