"""Boards: figures large enough for the wall of a lecture hall, which say in words what is seen."""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from qalib.report.plots.style import BLUE, GREEN, ORANGE, PURPLE, STYLE

# Decorates what draws a board: matplotlib's settings are everybody's, a notebook's own figures' too.
LARGE: dict[Any, Any] = STYLE | {"font.size": 14, "axes.titlesize": 15}
large = matplotlib.rc_context(LARGE)


class Board(Figure):
    """A figure that shows itself in a notebook, drawn in vectors, the same bytes for the same figure."""

    @property
    def title(self) -> str:
        """What the board says over all."""
        return self.get_suptitle() or ", ".join(filter(None, (axes.get_title("left") for axes in self.axes)))

    @property
    def description(self) -> str:
        """What is seen, for those who cannot see it: the title, and panel by panel what is drawn over what."""
        panels = [said for axes in self.axes if (said := _panel(axes))]
        return ". ".join([" ".join(self.title.split()), *dict.fromkeys(panels)])

    def _repr_svg_(self) -> tuple[str, dict[str, str]]:
        buffer, said = io.StringIO(), self.description
        with matplotlib.rc_context({**LARGE, "svg.hashsalt": "qalib", "svg.fonttype": "path"}):
            self.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "qalib", "Title": said})
        return buffer.getvalue().replace("<svg ", '<svg role="img" ', 1), {"alt": said}


def _panel(axes: Axes) -> str:
    """A panel in words, none for a colour bar's."""
    if axes.get_label() == "<colorbar>":
        return ""
    drawn = {"map": axes.images, "bars": [c for c in axes.containers if isinstance(c, BarContainer)] or axes.patches,
             "dots": axes.collections, "lines": axes.lines}  # fmt: skip
    kinds = " and ".join([kind for kind, artists in drawn.items() if artists][:2])
    names = [label for label in axes.get_legend_handles_labels()[1] if label]
    across = [f"{way}: {text}" for way, text in (("across", axes.get_xlabel()), ("up", axes.get_ylabel())) if text]
    said = ([f"{kinds.capitalize()} of {', '.join(names)}"] if names else [kinds.capitalize()]) + across
    return " ".join("; ".join(filter(None, said)).split()) if across or names else ""


def board(height: float, *shape: int, **layout) -> tuple[Board, Any]:
    """A board 10 inches wide and `height` high, and its axes (an array of them for a `shape`).

    For functions that are decorated with `large`.
    """
    figure = Board(figsize=(10, height), layout="constrained")
    return figure, figure.subplots(*shape, **layout)


LINES = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (PURPLE, "D", ":"))
