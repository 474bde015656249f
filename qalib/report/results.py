"""Results: what a notebook found, as self-explanatory numbers, tables and figures in one report folder.

out/results.json    every number: name, value, unit, definition, source, note
out/tables/*.csv
out/figures/*.svg (and *.html)
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from qalib.report import tables
from qalib.report.inputs import CardInputs
from qalib.report.plots.style import STYLE
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json, write_text
from qalib.utils.folders import added_files
from qalib.utils.quantity import Number, Value


@dataclass(frozen=True)
class Picture:
    """A saved SVG figure that displays itself in a notebook."""

    path: Path

    def _repr_svg_(self) -> str:
        return self.path.read_text(encoding="utf-8")


class Table(pd.DataFrame):
    """A table that a notebook shows as `tables.html_table` does."""

    @property
    def _constructor(self) -> type["Table"]:
        return Table  # so that parts of it are Tables too

    def _repr_html_(self) -> str:
        return tables.html_table(self)


@dataclass(frozen=True)
class Withheld:
    """Used like Results where nothing must be shown: keeps numbers without their values, and nothing else."""

    results: "Results"
    reason: str

    def number(self, name: str, value: Value, unit: str = "", definition: str = "") -> None:
        """Record that there is such a number, and why it has no value."""
        self.results.number(name, None, unit, definition, self.reason)

    def table(self, name: str, frame: pd.DataFrame) -> str:
        """Why there is no table."""
        return self.reason

    def figure(self, name: str, figure: Figure) -> str:
        """Why there is no figure."""
        return self.reason


class Results:
    """Collects the numbers, tables and figures of one source (a notebook's name) in the report folder `out`.

    Other sources' numbers in the same folder stay; those that this source wrote earlier are replaced.
    """

    def __init__(self, out: Path | str, source: str) -> None:
        self.out = Path(out)
        self.source = source
        tables.style_notebook()
        self._numbers = {n.name: n for n in read(self.out, missing_ok=True).values() if n.source != source}

    def number(self, name: str, value: Value, unit: str = "", definition: str = "", note: str = "") -> Value:
        """Keep a number and return its value; `note` says why there is none, and is dropped if there is one.

        Unit and definition of an input of the card are those of `CardInputs`. Raises ValueError if another source has a
        number of that name, or if there is no definition.
        """
        if not definition:
            unit, definition = _definition(name)
        if (other := self._numbers.get(name)) and other.source != self.source:
            raise ValueError(f"number {name!r} already comes from {other.source}")
        self._numbers[name] = Number(name, value, unit, definition, self.source, note if value is None else "")
        write_json(self.out / "results.json", {"numbers": [asdict(n) for _, n in sorted(self._numbers.items())]})
        return value

    def measured(self, result: Any, note: str = "") -> "Table":
        """Keep every field of a dataclass that was made with `measure`; returns them as a table to display.

        `note` says why fields that are None have no value; by default each field's own note does.
        """
        rows = []
        for field in fields(result):
            if "unit" in field.metadata:
                unit, definition = field.metadata["unit"], field.metadata["definition"]
                reason = note or field.metadata["none"]
                value = self.number(field.name, getattr(result, field.name), unit, definition, reason)
                rows.append((field.name, reason if value is None else value, unit, definition))
        return Table(rows, columns=["name", "value", "unit", "definition"], dtype=object)

    def table(self, name: str, frame: pd.DataFrame) -> "Table":
        """Keep a table as tables/NAME.csv, for any spreadsheet to open, and return it."""
        safe = frame.rename(columns=_spreadsheet_cell)
        for column in safe.select_dtypes(exclude=["number", "bool"]):
            safe[column] = pd.Series([_spreadsheet_cell(cell) for cell in safe[column]], safe.index, dtype=object)
        write_text(self.out / "tables" / f"{name}.csv", safe.to_csv(index=False, lineterminator="\n"))
        return Table(frame)

    def figure(self, name: str, figure: Figure) -> Picture:
        """Keep a matplotlib figure as figures/NAME.svg, byte-identical for the same figure, for a notebook to show."""
        path = self.out / "figures" / f"{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": "qalib", "svg.fonttype": "path"}):
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "qalib"})
        return Picture(path)

    def withheld_if(self, reason: str) -> "Results | Withheld":
        """These results or, given a reason not to show what follows, a stand-in that withholds it."""
        return Withheld(self, reason) if reason else self

    def page(self, name: str, html: str) -> None:
        """Keep an interactive figure as figures/NAME.html."""
        write_text(self.out / "figures" / f"{name}.html", html)


def _definition(name: str) -> tuple[str, str]:
    known = {field.name: field.metadata for field in fields(CardInputs)}
    if name not in known:
        raise ValueError(f"number {name!r}: needs a unit and a definition, as it is no input of the card")
    return known[name]["unit"], known[name]["definition"]


@contextmanager
def added_to(out: Path | str, source: str) -> Iterator[Results]:
    """Results of a source that are added to a folder all at once, when the block ends without an error."""
    with added_files(out) as draft:
        if (earlier := Path(out) / "results.json").exists():
            shutil.copy(earlier, draft)
        yield Results(draft, source)


def _spreadsheet_cell(cell: Any) -> Any:
    """A cell with an apostrophe before text that a spreadsheet would run as a formula (OWASP, CSV injection).

    A carriage return, which csv does not quote, becomes a line break.
    """
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")
    if not cell.startswith(tuple("=+-@\t\n＝＋－＠")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def read(out: Path | str, missing_ok: bool = False) -> dict[str, Number]:
    """All numbers in a report folder, by name. Raises InputError if there are none or the file is malformed."""
    path = Path(out) / "results.json"
    if not path.exists():
        if missing_ok:
            return {}
        raise InputError(
            f"{path}: no such file; run the notebooks that measure (01 to 04) with this output folder first"
        )
    try:
        return {entry["name"]: Number(**entry) for entry in read_json(path)["numbers"]}
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: not a results file ({error})") from None
