"""Report: from measurements to tables, figures, card, pages and site."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    {"audit", "build", "card", "claim", "claims", "comparison", "pages", "plots", "progress", "results"},
    {"results": ["Results", "Table"]},
)
