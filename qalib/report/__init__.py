"""Report: from measurements to tables, figures, card, pages and site."""

from qalib.report import audit, build, card, comparison, pages, plots, results

__all__ = ["audit", "build", "card", "comparison", "pages", "plots", "results"]
