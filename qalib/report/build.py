"""Building a report: notebooks run in order by papermill, their results put together.

Everything is made in a draft folder beside the report (`.NAME.draft`), which replaces the report only when it is
complete. A failure leaves any earlier report as it was, and the draft to resume from: started again with the same
inputs, finished notebooks are not run again.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from qalib.model import checkpoint
from qalib.qa import squad
from qalib.report import execution, front, pages
from qalib.report.draft import STATE_FILE, FinishedNotebook, Inputs, resume
from qalib.report.progress import Progress, say
from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, replace_folder, restore_folder, sha256, write_json
from qalib.utils.paths import NOTEBOOKS

SEED = 0  # for notebooks that draw random numbers
QUICK = {  # what `quick` reduces: rounds and questions of timings, steps of the demonstration run
    "repeats": 3,
    "evaluated": 24,
    "evaluation_repeats": 2,
    "densities": [0.317, 1.0],
    "steps": 20,
    "timed_questions": 2,
}


def run(
    model: str = "bundled",
    data: str = "sample",
    out: Path | str | None = None,
    device: str = "auto",
    questions: int | None = None,
    fresh: bool = False,
    parameters: dict[str, Any] | None = None,
    notebooks: Sequence[Path] | None = None,
    timeout: float = 4 * 3600,
    keep: bool = False,
    quick: bool = False,
) -> Path:
    """Run the notebooks for a model and a question set and write the report folder; returns it.

    `out` defaults to reports/MODEL-DATA. If `keep`, a finished report of the same inputs is not made again.
    `parameters` go to every notebook that declares them, and take precedence over those of QUICK if `quick`.
    `timeout` is in seconds per cell. Raises InputError for unusable input, before anything is run, and ReportError if a
    notebook fails.
    """
    notebooks = sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if notebooks is None else list(notebooks)
    if not notebooks:
        raise InputError(f"{NOTEBOOKS}: no notebooks there; reinstall qalib")
    loaded = checkpoint.load(model)
    question_set = squad.load(data).first(questions)
    _ = loaded.tokenizer  # notebooks need it: better to raise here than in one of them
    pinned = f"{loaded.name}@{loaded.revision}" if loaded.revision else model  # in case the branch moves meanwhile
    declared = {path: execution.check_parameters(path, {}) for path in notebooks}
    known = set().union(*declared.values())
    parameters = {name: value for name, value in QUICK.items() if quick and name in known} | (parameters or {})
    inputs = Inputs(pinned, data, questions, machine.device(device), parameters, loaded, question_set)
    for name in parameters:
        if name not in known:
            raise InputError(f"no notebook has a parameter {name!r}; they have {', '.join(sorted(known))}")
    out = Path(out) if out is not None else Path("reports") / default_name(model, data, questions)
    if out.is_symlink() or out.name in ("", ".."):  # what stands in for a folder cannot be renamed
        out = out.resolve()
    if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not a report; choose another folder with --out")
    with locked(out):
        restore_folder(out)
        if keep and not fresh and (out / "manifest.json").exists() and inputs.digest(notebooks) == _made_of(out):
            say(f"{out}: already made from the same inputs")
            return out
        return _run(inputs, notebooks, declared, out, out.parent / f".{out.name}.draft", fresh, timeout)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock a report folder for writing. Raises InputError if another run has the lock."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out.parent / f".{out.name}.lock").acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise InputError(f"{out}: another run is writing this report; wait for it or choose another folder") from None


def _made_of(out: Path) -> str | None:
    try:
        return read_json(out / "manifest.json").get("inputs")
    except (InputError, AttributeError):
        return None


def default_name(model: str, data: str | None = None, questions: int | None = None) -> str:
    """A folder name that says what the report is about: bundled-sample, bundled-dev-v1.1-500, ..."""
    asked = data if data in ("sample", "squad", None) else Path(data).stem
    parts = [model.rstrip("/").split("/")[-1], asked, questions and str(questions)]
    return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, parts)))


def _run(
    inputs: Inputs,
    notebooks: list[Path],
    declared: dict[Path, set[str]],
    out: Path,
    draft: Path,
    fresh: bool,
    timeout: float,
) -> Path:
    started = datetime.now(UTC)
    state = resume(draft, inputs.key, fresh)
    given = {"model": inputs.model, "data": inputs.data, "out": str(draft), "device": inputs.device,
             "questions": inputs.questions, "seed": SEED} | inputs.parameters  # fmt: skip
    progress = Progress(notebooks)
    for position, notebook in enumerate(notebooks):
        parameters = {name: value for name, value in given.items() if name in declared[notebook]}
        source = sha256(notebook)
        if (notebook.stem, source) in [(step.name, step.sha256) for step in state.done]:
            say(f"{progress.label(notebook.stem)}: already done for the same inputs")
            continue
        state.done = state.done[:position]  # those after it depend on it
        with progress.running(notebook.stem):
            seconds = execution.execute(notebook, draft / "notebooks" / notebook.name, parameters, timeout)
        progress.done(notebook.stem, seconds)
        state.done.append(FinishedNotebook(notebook.stem, source, seconds))
        state.write(draft)
    say("putting the report together")
    _bind(inputs, notebooks, state.done, draft, started)
    replace_folder(draft, out)
    say(f"the report: {out / 'index.html'}")
    return out


def _bind(inputs: Inputs, notebooks: list[Path], done: list[FinishedNotebook], draft: Path, started: datetime) -> None:
    entries = []
    for notebook, step in zip(notebooks, done, strict=True):
        executed = draft / "notebooks" / notebook.name
        title = pages.render_html(executed, executed.with_suffix(".html"))
        executed.unlink()
        entries.append({"name": step.name, "title": title, "seconds": round(step.seconds, 1), "sha256": step.sha256})
    (draft / STATE_FILE).unlink()
    manifest = _manifest(inputs, notebooks, entries, started)
    write_json(draft / "manifest.json", manifest)
    front.write(draft, manifest)


def _manifest(inputs: Inputs, notebooks: list[Path], entries: list[dict], started: datetime) -> dict[str, Any]:
    loaded, asked = inputs.loaded, inputs.question_set
    finished = datetime.now(UTC)
    return {
        "model": {"name": loaded.name, "format": loaded.format, "revision": loaded.revision,
                  "weight_file": loaded.weight_file.name, "bytes": loaded.file_bytes, "sha256": loaded.sha256},
        "data": {"description": asked.description, "questions": len(asked), "sha256": asked.sha256},
        "device": inputs.device,
        "inputs": inputs.digest(notebooks),
        "parameters": inputs.parameters,
        "seed": inputs.parameters.get("seed", SEED),
        "machine": machine.specs(),
        "versions": machine.versions(),
        "notebooks": entries,
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - started).total_seconds(), 1),
    }  # fmt: skip
