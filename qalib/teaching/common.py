"""Boards: figures large enough for the wall of a lecture hall, and sliders to explore them with."""

import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import matplotlib
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qalib.report.plots.style import BLUE, GREEN, ORANGE, PURPLE, STYLE

# Decorates what draws a board: matplotlib's settings are everybody's, a notebook's own figures' too.
LARGE = STYLE | {"font.size": 14, "axes.titlesize": 15}
large = matplotlib.rc_context(LARGE)


class Board(Figure):
    """A figure that shows itself in a notebook, drawn in vectors, the same bytes for the same figure."""

    @property
    def title(self) -> str:
        """What the board says over all: also its text for those who cannot see it."""
        return self.get_suptitle() or ", ".join(filter(None, (axes.get_title("left") for axes in self.axes)))

    def _repr_svg_(self) -> tuple[str, dict[str, str]]:
        buffer = io.StringIO()
        with matplotlib.rc_context(LARGE | {"svg.hashsalt": "qalib", "svg.fonttype": "path"}):
            self.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "qalib"})
        return buffer.getvalue(), {"alt": self.title}


def board(height: float, *shape: int, **layout) -> tuple[Board, Axes]:
    """A board 10 inches wide and `height` high, and its axes (an array of them for a `shape`).

    For functions that are decorated with `large`.
    """
    figure = Board(figsize=(10, height), layout="constrained")
    return figure, figure.subplots(*shape, **layout)


def explore(draw: Callable[..., Any], **choices: Sequence[Any]) -> Any:
    """A figure with a slider for each of the `choices`, where there is somebody to move them.

    `draw` is called by keyword with one of each; first with the first of each. Without a front end that answers (a
    notebook that papermill or nbconvert runs) it returns that one figure, and no widget.
    """
    first = {name: next(iter(values)) for name, values in choices.items()}
    if not live():
        return draw(**first)
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=[(str(value), value) for value in values], description=name.replace("_", " "),
            continuous_update=False, style={"description_width": "initial"},
        )
        for name, values in choices.items()
    }  # fmt: skip
    display(ipywidgets.HBox(list(sliders.values()), layout={"flex_flow": "row wrap"}))
    shown = display(draw(**first), display_id=True)
    for slider in sliders.values():
        slider.observe(lambda _: shown.update(draw(**{name: s.value for name, s in sliders.items()})), "value")


def live() -> bool:
    """Does a front end with sliders (JupyterLab, Notebook, VS Code) run this kernel?"""
    shell = get_ipython()
    return shell is not None and ("JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns)


LINES = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (PURPLE, "D", ":"))
