"""The report: notebooks run in order by papermill, their results bound together.

Everything is made in a draft folder beside the report (`.NAME.draft`), which takes the report's place only when all of
it is there; the manifest is written last. A failure leaves an earlier report as it was and the draft to go on from:
started again with the same inputs, the notebooks that are done are not run again.
"""

import hashlib
import json
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import nbformat
import papermill

from qalib.model import checkpoint
from qalib.qa import squad
from qalib.report import pages
from qalib.report.progress import Progress, say
from qalib.runtimes import instruction_sets
from qalib.utils import machine
from qalib.utils.errors import InputError, ReportError, one_line
from qalib.utils.files import read_json, replace_folder, restore_folder, sha256, write_json, write_text
from qalib.utils.paths import NOTEBOOKS, PACKAGE

SEED = 0  # of the notebooks that draw numbers
QUICK = {  # what `quick` makes smaller: rounds and questions of timings, steps of the run to watch
    "repeats": 3,
    "evaluated": 24,
    "evaluation_repeats": 2,
    "densities": [0.317, 1.0],
    "steps": 20,
    "timed_questions": 2,
}
FILE = "state.json"  # in a draft: what is done


@dataclass(frozen=True)
class Inputs:
    """What a report is made from; notebooks that are done for equal `key`s need not run again."""

    model: str
    data: str
    questions: int | None
    device: str
    parameters: dict[str, Any]
    loaded: checkpoint.Checkpoint
    question_set: squad.QuestionSet

    @property
    def key(self) -> dict[str, Any]:
        """Hashes and settings as plain values."""
        sources = sorted(path for path in PACKAGE.rglob("*.*") if path.is_file() and "__pycache__" not in path.parts)
        return {
            "model": [self.model, self.loaded.sha256, sha256(self.loaded.folder / "config.json")],
            "data": [self.question_set.description, self.question_set.sha256],
            "device": self.device,
            "parameters": self.parameters,
            "package": hashlib.sha256("".join(sha256(path) for path in sources).encode()).hexdigest(),
            "versions": machine.versions(),
            "machine": machine.specs(),  # times are its own
            "kernel": instruction_sets.unavailable_reason() or instruction_sets.available(),
        }


@dataclass(frozen=True)
class Step:
    """A notebook that has been run: its name, the SHA-256 of its source, and the seconds it took."""

    name: str
    sha256: str
    seconds: float


@dataclass
class State:
    """How far a draft has come: the `key` of its inputs and the steps that are done, in order."""

    key: dict[str, Any]
    done: list[Step] = field(default_factory=list)

    @classmethod
    def read(cls, draft: Path) -> "State | None":
        """The state of a draft folder; None if it has none that can be used."""
        try:
            state = read_json(draft / FILE)
            return cls(state["key"], [Step(**step) for step in state["done"]])
        except (InputError, KeyError, TypeError):
            return None

    def write(self, draft: Path) -> None:
        """Keep it in the draft, for a run that goes on from there."""
        write_json(draft / FILE, asdict(self))


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

    `out` is reports/MODEL-DATA unless given. If `keep`, a finished report of the same inputs is not made again.
    `parameters` go to every notebook that declares them, before them those of QUICK if the report is to be `quick`.
    `timeout` is in seconds a cell. Raises InputError for input that cannot be used, before anything is run, and
    ReportError if a notebook fails.
    """
    notebooks = sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if notebooks is None else list(notebooks)
    if not notebooks:
        raise InputError(f"{NOTEBOOKS}: no notebooks there; install qalib again")
    loaded = checkpoint.load(model)
    question_set = squad.load(data).first(questions)
    _ = loaded.tokenizer  # notebooks need it: raises here, not in one of them
    pinned = f"{loaded.name}@{loaded.revision}" if loaded.revision else model  # should the branch move meanwhile
    declared = {path: check_parameters(path, {}) for path in notebooks}
    known = set().union(*declared.values())
    parameters = {name: value for name, value in QUICK.items() if quick and name in known} | (parameters or {})
    inputs = Inputs(pinned, data, questions, machine.device(device), parameters, loaded, question_set)
    for name in parameters:
        if name not in known:
            raise InputError(f"no notebook has a parameter {name!r}; there are {', '.join(sorted(known))}")
    out = Path(out) if out is not None else Path("reports") / default_name(model, data, questions)
    if out.exists() and not (out / "manifest.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not a report; choose another folder with --out")
    with alone(out):
        restore_folder(out)
        if keep and not fresh and (out / "manifest.json").exists() and _digest(inputs, notebooks) == _made_of(out):
            say(f"{out}: made already from the same inputs")
            return out
        return _run(inputs, notebooks, declared, out, out.parent / f".{out.name}.draft", fresh, timeout)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the one right to write a report folder. Raises InputError if another run has it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out.parent / f".{out.name}.lock").acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise InputError(f"{out}: another run is writing this report; wait for it or choose another folder") from None


def _digest(inputs: Inputs, notebooks: list[Path]) -> str:
    """One hash of all that a report is made from."""
    made_of = [inputs.key, [[path.stem, sha256(path)] for path in notebooks]]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _made_of(out: Path) -> str | None:
    try:
        return read_json(out / "manifest.json").get("inputs")
    except (InputError, AttributeError):
        return None


def default_name(model: str, data: str | None = None, questions: int | None = None) -> str:
    """A folder name that says what the report is of: bundled-sample, bundled-dev-v1.1-500, ..."""
    asked = data if data in ("sample", "squad", None) else Path(data).stem
    parts = [model.rstrip("/").split("/")[-1], asked, questions and str(questions)]
    return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, parts)))


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> set[str]:
    """The parameters that a notebook declares. Raises InputError if one of `parameters` is not among them."""
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            declared = set(papermill.inspect_notebook(str(notebook)))
    except Exception as error:  # papermill and nbformat raise many kinds
        raise InputError(f"{notebook}: not a notebook: {one_line(error)}") from None
    if unknown := parameters.keys() - declared:
        raise InputError(
            f"{notebook.name}: no parameter {', '.join(sorted(unknown))}; "
            f"it has {', '.join(sorted(declared)) or 'none'}"
        )
    return declared


def execute(notebook: Path, output: Path, parameters: dict[str, Any], timeout: float = 4 * 3600) -> float:
    """Run one notebook with papermill and keep it as `output` once it is complete; returns the seconds it took.

    Raises InputError for a parameter that the notebook does not declare, and ReportError, with the partial notebook
    kept under a name that says so, if a cell fails, runs out of time, or the kernel dies.
    """
    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    running = output.with_suffix(".running.ipynb")
    failed = output.with_suffix(".FAILED.ipynb")
    failed.unlink(missing_ok=True)
    began = time.perf_counter()
    try:
        papermill.execute_notebook(
            notebook, running, parameters, kernel_name="python3", progress_bar=False,
            start_timeout=120, execution_timeout=timeout, extra_arguments=["--log-level=ERROR"],
        )  # fmt: skip
        _check_complete(running)
    except BaseException as error:
        if running.exists():
            running.rename(failed)
        if not isinstance(error, Exception):
            raise
        raise ReportError(f"{notebook.name}, {_where(error)}; the partial notebook is {failed}") from error
    running.rename(output)
    return time.perf_counter() - began


def _check_complete(path: Path) -> None:
    """papermill can leave an output that looks complete; trust the cells."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code" and cell.source.strip():
            if cell.execution_count is None or any(o.output_type == "error" for o in cell.outputs):
                raise RuntimeError(f"cell {number} did not run to its end")


def _where(error: Exception) -> str:
    if isinstance(error, papermill.PapermillExecutionError):
        return f"cell {error.cell_index} ({error.source.strip().splitlines()[0]}): {error.ename}: {error.evalue}"
    return one_line(error)


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
    state = _resume(draft, inputs.key, fresh)
    given = {"model": inputs.model, "data": inputs.data, "out": str(draft), "device": inputs.device,
             "questions": inputs.questions, "seed": SEED} | inputs.parameters  # fmt: skip
    progress = Progress(notebooks)
    for position, notebook in enumerate(notebooks):
        parameters = {name: value for name, value in given.items() if name in declared[notebook]}
        source = sha256(notebook)
        if (notebook.stem, source) in [(step.name, step.sha256) for step in state.done]:
            say(f"{progress.label(notebook.stem)}: done already for the same inputs")
            continue
        state.done = state.done[:position]  # what follows stands on it
        with progress.running(notebook.stem):
            seconds = execute(notebook, draft / "notebooks" / notebook.name, parameters, timeout)
        progress.done(notebook.stem, seconds)
        state.done.append(Step(notebook.stem, source, seconds))
        state.write(draft)
    say("binding the report")
    _bind(inputs, notebooks, state.done, draft, started)
    replace_folder(draft, out)
    say(f"the report: {out / 'index.html'}")
    return out


def _resume(draft: Path, key: dict[str, Any], fresh: bool) -> State:
    """The draft's state if it was made from the same inputs; else an empty draft and state."""
    plain = json.loads(json.dumps(key))
    state = None if fresh else State.read(draft)
    if state is not None and state.key == plain:
        for path in draft.rglob(".*"):  # files whose writing was interrupted
            path.unlink()
        return state
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return State(plain)


def _bind(inputs: Inputs, notebooks: list[Path], done: list[Step], draft: Path, started: datetime) -> None:
    entries = []
    for notebook, step in zip(notebooks, done, strict=True):
        executed = draft / "notebooks" / notebook.name
        title = pages.render_html(executed, executed.with_suffix(".html"))
        executed.unlink()
        entries.append({"name": step.name, "title": title, "seconds": round(step.seconds, 1), "sha256": step.sha256})
    (draft / FILE).unlink()
    loaded = inputs.loaded
    finished = datetime.now(UTC)
    manifest = {
        "model": {"name": loaded.name, "format": loaded.format, "revision": loaded.revision,
                  "weight_file": loaded.weight_file.name, "bytes": loaded.file_bytes, "sha256": loaded.sha256},
        "data": {"description": inputs.question_set.description, "questions": len(inputs.question_set),
                 "sha256": inputs.question_set.sha256},
        "device": inputs.device,
        "inputs": _digest(inputs, notebooks),
        "parameters": inputs.parameters,
        "seed": inputs.parameters.get("seed", SEED),
        "machine": machine.specs(),
        "versions": machine.versions(),
        "notebooks": entries,
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - started).total_seconds(), 1),
    }  # fmt: skip
    write_text(draft / "index.html", pages.index(draft, manifest))
    write_json(draft / "manifest.json", manifest)
