"""What all figures share: colours, width, fonts.

Colours are from the Okabe-Ito set, which colour-blind readers can tell apart; nothing depends on colour alone.
"""

from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#D9D9D9", "#222222"
HALO = {"path_effects": [withStroke(linewidth=2.5, foreground="white")]}  # of text that crosses points and lines
WIDTH = 7.2  # inches; a model card shows figures about 700 pixels wide
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.bbox": "tight",
    "savefig.facecolor": "white",
}


# Decorates functions that draw figures: matplotlib reads its settings when text and ticks are made, and they are
# global, shared with a notebook's own figures.
styled = matplotlib.rc_context(STYLE)


def blank(height: float, *shape: int, **layout: Any) -> tuple[Figure, Any]:
    """A figure as wide as a card, `height` inches high, and its axes (an array of them for a grid of `shape`).

    For functions that are `styled`.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(*shape, **layout)
