"""What the whole package needs: errors, files, paths, the machine, processes that share work, quantities with units."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__)
