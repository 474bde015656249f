"""A comparison: a report for each of several models on the same questions, and a table and a figure over them.

out/NAME/                        the report of each model
out/tables/comparison.csv        a row a model, those too that no report could be made of, with the reason
out/figures/comparison.svg
out/index.html, manifest.json    written again after each model, so that what is done can be read while the rest runs
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from qalib.report import build, pages, plots, results
from qalib.report.results import Results
from qalib.utils import machine
from qalib.utils.errors import InputError, ReportError, one_line, printable
from qalib.utils.files import write_json, write_text

NUMBERS = ("linear_density_percent", "heads_left", "file_bytes", "exact_match", "f1", "block_sparse_speedup",
           "compact_speedup", "memory_share")  # fmt: skip


def run(models: Sequence[str], data: str = "sample", out: Path | str | None = None, **how: Any) -> Path:
    """Make a report for each model and compare them; returns the folder, reports/comparison-DATA unless given.

    `how` is passed to `report.run`. A model that fails does not stop the others. Started again, reports that were made
    from the same inputs are kept. Raises InputError for names that are the same or a folder that is something else,
    and at the end ReportError if a model failed, naming each with its error; the comparison is written then too.
    """
    name = build.default_name("comparison", data, how.get("questions"))
    out = Path(out) if out is not None else Path("reports") / name
    names = [build.default_name(model) for model in models]
    for model, name in zip(models, names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"--model {model}: another one would have the same folder, {out / name}")
    manifest = out / "manifest.json"
    if out.exists() and not manifest.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"{out}: exists already and is not a report; choose another folder with --out")
    failed: dict[str, str] = {}
    with build.alone(out):
        if not manifest.exists():  # first of all: one that is started again after a kill knows the folder by it
            write_json(manifest, {"models": list(models), "data": data, "finished": None})
        for number, (model, name) in enumerate(zip(models, names, strict=True), 1):
            print(f"model {number} of {len(models)}: {printable(model)}", file=sys.stderr, flush=True)
            try:
                build.run(model, data, out / name, keep=True, **how)
            except Exception as error:  # whatever one model leads to, the others have their turn
                known = isinstance(error, InputError | ReportError)
                failed[model] = printable(str(error) if known else one_line(error), 600)
                print(f"failed: {failed[model]}", file=sys.stderr, flush=True)
            done = dict(zip(models[:number], names, strict=False))
            _write(out, table(out, {m: n for m, n in done.items() if m not in failed}, failed), list(models), data)
    if failed:
        raise ReportError(f"{out}: {len(failed)} of {len(models)} models failed: {'; '.join(failed.values())}")
    return out


def table(out: Path, made: dict[str, str], failed: dict[str, str]) -> pd.DataFrame:
    """A row for each model: model, report (its folder in `out`), a column for each of NUMBERS, and note.

    What a report has no value for is None, and `note` says why; so it is with all of a model that failed.
    """
    rows = []
    for model, folder in made.items():
        numbers = results.read(out / folder)
        found = {name: numbers[name] for name in NUMBERS if name in numbers}
        notes = dict.fromkeys(number.note for number in found.values() if number.note)
        values = {name: found[name].value if name in found else None for name in NUMBERS}
        rows.append({"model": model, "report": folder} | values | {"note": "; ".join(notes)})
    rows += [{"model": model, "report": None} | dict.fromkeys(NUMBERS) | {"note": failed[model]} for model in failed]
    return pd.DataFrame(rows, columns=["model", "report", *NUMBERS, "note"])


def _write(out: Path, rows: pd.DataFrame, models: list[str], data: str) -> None:
    kept = Results(out, "qalib report")
    kept.table("comparison", rows)
    kept.figure("comparison", plots.published.comparison(rows))
    about = {"models": models, "data": data, "machine": machine.specs(), "versions": machine.versions(),
             "finished": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
    write_text(out / "index.html", pages.comparison(rows, about))
    write_json(out / "manifest.json", about)
