"""Lessons: one module each, with what it measures and draws; `algorithms` is what students write themselves."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
