"""Tables as HTML, in notebooks and on pages: words for names, readable numbers, texts in full."""

import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from qalib.utils.quantity import words

MOST_ROWS = 30  # shown at once; a longer table scrolls
SHORT, LONG = 24, 60  # characters: up to SHORT a text is not broken, beyond LONG it is given room
CELL = "padding:3px 12px 3px 0;vertical-align:top;overflow-wrap:break-word;text-align:"
NUMBER = f"{CELL}right;white-space:nowrap"
TEXTS = (f"{CELL}left;white-space:nowrap", f"{CELL}left;min-width:8em", f"{CELL}left;min-width:16em")
HEAD = "white-space:normal;position:sticky;top:0;background:var(--jp-layout-color0, var(--paper, Canvas))"


def html_table(frame: pd.DataFrame) -> Markup:
    """A table as HTML: texts on the left, numbers on the right, nothing for a missing value.

    Column names, and names in a column `name`, are put in words. An index of row numbers is left out.
    """
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index(names=_index_names(frame))
    columns = [frame.iloc[:, number] for number in range(frame.shape[1])]
    styles = [_style(column) for column in columns]
    head = "".join(
        f'<th scope="col" style="{style};{HEAD}">{escape(_title(column.name))}</th>'
        for column, style in zip(columns, styles, strict=True)
    )
    rows = []
    for row in zip(*columns, strict=True):
        cells = (
            f'<td style="{style}">{escape(words(value) if column.name == "name" else readable_cell(value))}</td>'
            for column, value, style in zip(columns, row, styles, strict=True)
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    height = ";max-height:34em" if len(rows) > MOST_ROWS else ""
    return Markup(
        f'<div class="wide" style="overflow:auto{height}" tabindex="0" role="region" aria-label="table">'
        f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def readable_cell(value: Any) -> str:
    """A cell as text: four significant digits, separators, the parts of a list after one another.

    >>> [readable_cell(value) for value in (0.123456, 1234567, 1234.56, float("nan"), None, ("a", "b"), True)]
    ['0.1235', '1,234,567', '1,235', '', '', 'a; b', 'yes']
    """
    if isinstance(value, Markup):
        return value
    if isinstance(value, list | tuple):
        return "; ".join(map(readable_cell, value))
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's
        return "yes" if value else "no"
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        return f"{number:,.0f}" if abs(number) >= 1000 or number == 0 else f"{number:,.4g}"
    return f"{value:,}" if isinstance(value, Integral) else str(value)


def style_notebook() -> None:
    """Let the notebook that this runs in, if any, show every data frame as `html_table`."""
    if (ipython := sys.modules.get("IPython")) and (shell := ipython.get_ipython()):
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, html_table)


def _style(column: pd.Series) -> str:
    """The style of a column's cells."""
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in column if value is not None):
        return NUMBER
    longest = max(len(readable_cell(value)) for value in column)
    return TEXTS[(longest > SHORT) + (longest > LONG)]


def _title(name: Any) -> str:
    if isinstance(name, tuple):
        return ", ".join(words(str(part), unit=True) for part in name if str(part))
    return words(str(name), unit=True)


def _index_names(frame: pd.DataFrame) -> Sequence[str]:
    """The names of the index's levels, "" for one without."""
    return [str(name or " " * number) for number, name in enumerate(frame.index.names)]
