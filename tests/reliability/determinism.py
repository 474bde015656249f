"""Same again: what two runs of the same inputs may differ in is times, and nothing else."""

import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qalib.report import build, card, execution, results
from qalib.utils.errors import ReportError
from qalib.utils.files import read_json
from reliability import trial
from reliability.trial import Section

TIMES = (
    "seconds",
    "model_seconds",
    "baseline",
    "compact_dtype",
    "compact_speedup",
    "compact_speedup_same_type",
    "block_sparse_dtype",
    "kernel",  # of the faster type
    "block_sparse_speedup",
    "block_sparse_speedup_same_type",
    "speed_remark",
    "evaluation_baseline",
    "evaluation_way",
    "batching_speedup",
    "evaluation_speedup",
    "usual_speedup",
    "memory_share",
    "break_even",
    "bert_base_speedup",
    "bf16_speed",
    "dense_bert_base_speedup",
)
TIMED = ("benchmark.csv", "evaluation_time.csv", "audit.csv", "speedup.svg", "evaluation_time.svg",
         "parts.csv", "densities.csv", "densities.svg", "memory.csv", "over_bert_base.csv", "frontier.csv",
         "frontier.svg")  # fmt: skip


def numbers(out: Path) -> dict[str, Any]:
    """Every number of a report but those that are times, with unit, definition and source."""
    return {name: asdict(number) for name, number in results.read(out).items() if name not in TIMES}


def contents(out: Path) -> dict[str, Any]:
    """What a finished report holds, by file, times left out."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_file():
            untimed = path.name not in TIMED and path.suffix in (".csv", ".svg")
            found[name] = path.read_bytes() if untimed else "is there"
    found["results.json"] = numbers(out)
    stilled = {name: replace(n, value=1.0) if name in TIMES else n for name, n in results.read(out).items()}
    found["card/README.md"] = card.render(stilled)
    manifest = read_json(out / "manifest.json")
    times = ("started", "finished", "seconds", "notebooks")
    entries = [{key: value for key, value in entry.items() if key != "seconds"} for entry in manifest["notebooks"]]
    found["manifest.json"] = {key: value for key, value in manifest.items() if key not in times} | {
        "notebooks": entries
    }
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names under which two runs differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def command(place: Path, out: Path, more: dict[str, Any] | None = None) -> list:
    """A small report of the tiny model."""
    dense, packed = trial.tiny(place)
    data = trial.asked(place / "eight.json")
    given = trial.QUICK | {"audited": packed} | (more or {})
    parameters = [part for name, value in given.items() for part in ("-p", f"{name}={value}")]
    return ["report", "--model", packed, "--data", data, "--questions", 5, "--device", "cpu", "--out", out, *parameters]


def alone(notebook: Path, out: Path, draft: Path, place: Path) -> str:
    """Run one notebook by itself on an empty or begun report; "" or the error."""
    dense, packed = trial.tiny(place)
    given = {"model": str(packed), "data": str(trial.asked(place / "eight.json")), "out": str(out), "questions": 5,
             "device": "cpu", "audited": str(packed)} | trial.QUICK  # fmt: skip
    declared = execution.check_parameters(notebook, {})
    try:
        execution.execute(notebook, draft / notebook.name, {k: v for k, v in given.items() if k in declared})
    except ReportError as error:
        return str(error)
    return ""


def twice(names: list[str] | None = None) -> Section:
    """Two full reports; each notebook alone, and all in the wrong order. With `names` only those notebooks, alone."""
    section = Section(
        "Same again", "Two full runs of `qalib report` with the same inputs; each notebook alone in an empty folder; "
        "all of them from last to first.", ("run", "compared with the first", "compared", "differences, times apart"),
    )  # fmt: skip
    notebooks = sorted(build.NOTEBOOKS.glob("[0-9]*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = place / "first"
        if names is None:
            for out in (first, place / "again"):
                ended = trial.finish(trial.start(*command(place, out)))
                section.expect(ended.code == 0, f"the run ends with {ended.code}: {ended.err[-600:]}")
            one, other = contents(first), contents(place / "again")
            differing = differences(one, other)
            section.row(
                "a second run", "tables, figures, card, numbers, manifest", len(one), ", ".join(differing) or "none"
            )
            section.expect(not differing, f"two runs differ in {differing}")
            manifest = one["manifest.json"]
            section.row(
                "the manifest", "states seed and versions", len(manifest["versions"]), f"seed {manifest['seed']}"
            )
        for notebook in notebooks:
            if names is None or notebook.stem in names:
                _alone(section, notebook, place, first)
        if names is None:
            backwards = place / "backwards"
            said = [alone(notebook, backwards, place / "draft", place) for notebook in reversed(notebooks)]
            differing = differences(numbers(first), numbers(backwards))
            section.row("all, last to first", "every number", len(numbers(first)), ", ".join(differing) or "none")
            section.expect(not differing and sum(map(bool, said)) == 1, f"backwards: {differing}, {said}")
    section.notes += [
        f"times: the numbers {', '.join(TIMES)}, and the files {', '.join(TIMED)}; pages are compared by their names",
        "the notebook of the card stands on the others: alone it must fail and say so",
    ]
    return section


def _alone(section: Section, notebook: Path, place: Path, first: Path) -> None:
    out = place / f"alone-{notebook.stem}"
    said = alone(notebook, out, place / "draft", place)
    if "card" in notebook.stem and "audit" not in notebook.stem:
        clear = "run the notebooks that measure (01 to 04)" in said
        section.row(notebook.stem, "alone", 0, "refused: run the notebooks that measure first" if clear else said)
        section.expect(clear, f"{notebook.stem} alone says: {said}")
        return
    found = numbers(out) if not said and (out / "results.json").exists() else {}
    whole = {k: v for k, v in numbers(first).items() if v["source"] == notebook.stem} if first.exists() else found
    differing = differences(found, whole)
    section.row(notebook.stem, "alone", len(found), said or ", ".join(differing) or "none")
    section.expect(not said and not differing, f"{notebook.stem} alone: {said} {differing}")
    shutil.rmtree(out, ignore_errors=True)
