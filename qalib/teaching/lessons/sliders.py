"""Sliders: a figure to explore, live where a front end answers, and drawn ahead for a page.

In JupyterLab a slider redraws the figure. Elsewhere (papermill, nbconvert) the figures are drawn ahead, as pictures of
one size, and moved by plain range inputs; the site's page has the few lines of script that do it.
"""

import base64
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from html import escape
from itertools import product
from typing import Any, cast

import ipywidgets
import matplotlib
from IPython import get_ipython
from IPython.display import HTML, DisplayHandle, display

from qalib.teaching.lessons.boards import LARGE, Board

Choices = Mapping[str, Any] | Sequence[Any]  # values, or values by label
PICTURES = {  # how a board is drawn: live quickly, ahead in few bytes
    "png": {"dpi": 100, "pil_kwargs": {"compress_level": 1}},
    "webp": {"dpi": 80, "pil_kwargs": {"quality": 50, "method": 6}},
}


def explore(
    draw: Callable[..., Board],
    start: Mapping[str, Any] | None = None,
    every: Mapping[str, int] | None = None,
    **choices: Choices,
) -> "Pages | None":
    """A figure with a slider for each of the `choices`, which `draw` is called with, by keyword.

    Numbers are put in order, other values stay in theirs. A slider stands first at the value that `start` has for it,
    or else at its lowest. Without a front end that answers, `Pages` are returned; of a slider that `every` names they
    have every n-th value only, its start among them.
    """
    labelled = {name: _labelled(values) for name, values in choices.items()}
    places = {name: list(values.values()).index((start or {}).get(name, next(iter(values.values()))))
              for name, values in labelled.items()}  # fmt: skip
    if not live():
        return Pages(draw, labelled, places, every or {})
    sliders = {name: _slider(name, values, places[name]) for name, values in labelled.items()}
    rows = [ipywidgets.HBox([slider, _readout(slider)]) for slider in sliders.values()]
    display(ipywidgets.HBox(rows, layout={"flex_flow": "row wrap"}))

    def picture() -> HTML:
        return HTML(_image(draw(**{name: slider.value for name, slider in sliders.items()}), "png"))

    shown = cast(DisplayHandle, display(picture(), display_id=True))
    for slider in sliders.values():
        slider.observe(lambda _: shown.update(picture()), "value")


class Pages:
    """Figures drawn ahead, when a notebook asks for them: one for every combination of the sliders' values."""

    def __init__(self, draw: Callable[..., Board], choices: dict[str, dict], start: dict[str, int], every: Mapping):
        """`choices` has values by label for every slider, `start` the place where it stands first."""
        steps = {name: every.get(name, 1) for name in choices}
        self.left_out = {name: len(choices[name]) for name, step in steps.items() if step > 1}
        self.choices = {name: dict([*values.items()][start[name] % steps[name] :: steps[name]])
                        for name, values in choices.items()}  # fmt: skip
        self.start = {name: start[name] // steps[name] for name in choices}
        self._draw = draw

    @cached_property
    def first(self) -> Board:
        """The figure where the sliders stand first."""
        return self._draw(**{name: [*values.values()][self.start[name]] for name, values in self.choices.items()})

    def _repr_html_(self) -> str:
        controls, images = [], []
        for name, values in self.choices.items():
            labels, at = [*values], self.start[name]
            ratio = f" ({len(labels)} of {self.left_out[name]} values)" if name in self.left_out else ""
            controls.append(
                f'<label>{_words(name)}{ratio} <input type="range" min="0" max="{len(labels) - 1}" value="{at}"'
                f' aria-valuetext="{escape(labels[at])}" data-labels="{escape(json.dumps(labels))}">'
                f'<span aria-hidden="true">{escape(labels[at])}</span></label>'
            )
        here = tuple(self.start.values())
        for places in product(*(range(len(values)) for values in self.choices.values())):
            values = {
                name: [*self.choices[name].values()][place] for name, place in zip(self.choices, places, strict=True)
            }
            images.append(_image(self.first if places == here else self._draw(**values), "webp", places != here))
        return f'<div class="frames"><div class="controls">{"".join(controls)}</div>\n' + "\n".join(images) + "</div>"


def live() -> bool:
    """Does a front end with sliders (JupyterLab, Notebook, VS Code) run this kernel?"""
    shell = get_ipython()
    return shell is not None and ("JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns)


def _labelled(values: Choices) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    numbers = all(isinstance(value, int | float) for value in values)
    return {str(value): value for value in (sorted(values) if numbers else values)}


def _slider(name: str, values: Mapping[str, Any], place: int) -> ipywidgets.SelectionSlider:
    return ipywidgets.SelectionSlider(
        options=[*values.items()], index=place, description=_words(name), continuous_update=False, readout=False,
        style={"description_width": "initial"},
    )  # fmt: skip


def _readout(slider: ipywidgets.SelectionSlider) -> ipywidgets.Label:
    """The label of a slider's value, whole: its own readout is cut off."""
    label = ipywidgets.Label(slider.label)
    slider.observe(lambda _: setattr(label, "value", slider.label), "value")
    return label


def _image(board: Board, kind: str, hidden: bool = False) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context({**LARGE, "savefig.bbox": None}):  # all of one size
        board.savefig(buffer, format=kind, **PICTURES[kind])
    data, hide = base64.b64encode(buffer.getvalue()).decode(), " hidden" if hidden else ""
    return f'<img alt="{escape(board.description)}" src="data:image/{kind};base64,{data}"{hide}>'


def _words(name: str) -> str:
    return name.replace("_", " ")
