"""A comparison: a report for each of several models on the same questions, and a table and a figure that compare them.

out/NAME/                        the report of each model
out/tables/comparison.csv        one row per model, including failed ones, with the reason
out/figures/comparison.svg
out/index.html, manifest.json    rewritten after each model, to read what is done while the rest runs
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from qalib.qa import squad
from qalib.report import build, pages, plots, results
from qalib.report.results import Results
from qalib.utils import machine
from qalib.utils.errors import InputError, ReportError, one_line, printable
from qalib.utils.files import write_json, write_text

NUMBERS = ("linear_density_percent", "heads_left", "file_bytes", "exact_match", "f1", "block_sparse_speedup",
           "compact_speedup", "memory_share")  # fmt: skip
NOTHING_TO_DRAW = "no model has an F1 or a speedup yet"


def run(models: Sequence[str], data: str = "sample", out: Path | str | None = None, **how: Any) -> Path:
    """Make a report for each model and compare them; returns the folder, by default reports/comparison-DATA.

    `how` is passed to `build.run`. A model that fails does not stop the others. On a second start, reports made from
    the same inputs are kept. Raises InputError if the data cannot be loaded, names clash or the folder is something
    else, and at the end ReportError if a model failed, naming each with its error; the comparison is written even then.
    """
    asked = squad.load(data).first(how.get("questions"))
    name = build.default_name("comparison", data, how.get("questions"))
    out = Path(out) if out is not None else Path("reports") / name
    names = [build.default_name(model) for model in models]
    for model, name in zip(models, names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"--model {model}: another one would have the same folder, {out / name}")
    manifest = out / "manifest.json"
    if out.exists() and not manifest.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"{out}: exists already and is not a report; choose another folder with --out")
    made: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    with build.locked(out):
        if not manifest.exists():  # at once, so that a run restarted after a kill recognises the folder
            write_json(manifest, {"models": list(models), "data": asked.scope, "finished": None})
        for number, (model, name) in enumerate(zip(models, names, strict=True), 1):
            print(f"model {number} of {len(models)}: {printable(model)}", file=sys.stderr, flush=True)
            try:
                build.run(model, data, out / name, keep=True, **how)
                made[model] = _row(out / name)
            except Exception as error:  # whatever goes wrong with one model, go on with the others
                failed[model] = _said(error)
                print(f"failed: {failed[model]}", file=sys.stderr, flush=True)
            not_drawn = _write(out, table(made, failed), list(models), asked.scope)
    if failed:
        raise ReportError(f"{out}: {len(failed)} of {len(models)} models failed: {'; '.join(failed.values())}")
    if not_drawn:
        raise ReportError(f"{out}: complete except for the figure: {not_drawn}")
    return out


def table(made: dict[str, dict[str, Any]], failed: dict[str, str]) -> pd.DataFrame:
    """A row for each model: model, report (its folder in `out`), a column for each of NUMBERS, and note.

    `made` holds the rows of the reports by model, `failed` the errors of the models without one. Values that a report
    lacks, all of them for a failed model, are NaN, and `note` says why.
    """
    rows = [{"model": model} | row for model, row in made.items()]
    rows += [{"model": model, "report": None, "note": error} for model, error in failed.items()]
    table = pd.DataFrame(rows, columns=["model", "report", *NUMBERS, "note"])
    return table.astype(dict.fromkeys(NUMBERS, float))  # also where no model has a value: None cannot be drawn


def _row(report: Path) -> dict[str, Any]:
    """A report's table row. Raises InputError if the report has no numbers."""
    numbers = results.read(report)
    found = {name: numbers[name] for name in NUMBERS if name in numbers}
    notes = dict.fromkeys(number.note for number in found.values() if number.note)
    return {"report": report.name, "note": "; ".join(notes)} | {name: n.value for name, n in found.items()}


def _said(error: Exception) -> str:
    known = isinstance(error, InputError | ReportError)
    return printable(str(error) if known else one_line(error), 600)


def _write(out: Path, rows: pd.DataFrame, models: list[str], scope: str) -> str | None:
    """Write the comparison so far; returns why there is no figure, or None."""
    kept = Results(out, "qalib report")
    kept.table("comparison", rows)
    not_drawn = picture = None
    try:
        if (drawn := plots.published.comparison(rows, scope)) is not None:
            picture = kept.figure("comparison", drawn)
    except Exception as error:  # hours of work must not be lost over a picture
        not_drawn = _said(error)
    if picture is None:
        (out / "figures" / "comparison.svg").unlink(missing_ok=True)
    about = {"models": models, "data": scope, "machine": machine.specs(), "versions": machine.versions(),
             "finished": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
    write_text(out / "index.html", pages.comparison(rows, about, not_drawn or (None if picture else NOTHING_TO_DRAW)))
    write_json(out / "manifest.json", about)
    return not_drawn
