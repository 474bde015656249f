"""What every room needs: errors, files, paths, the machine, processes that share work, quantities with units."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, {"distributed", "errors", "files", "machine", "paths", "quantity"}
)
