"""The folder of a pruning run: its arguments, its log and its checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import filelock
from accelerate import PartialState

from qalib.pruning import movement
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json

METHODS = ("movement", "magnitude", "keep")
MAY_CHANGE = {"resume", "max_hours", "save_minutes", "log_steps", "bar", "out", "work", "eval_data"}
COUNTED = ("step", "windows", "seconds")


def check(arguments: dict[str, Any], out: Path) -> None:
    """Raise InputError for an argument of `training.prune` that cannot be, or an `out` that holds something."""
    for name, choices in {"method": METHODS, "ffn": movement.FFN, "precision": ("bf16", "fp32")}.items():
        if arguments[name] not in choices:
            raise InputError(f"{name} {arguments[name]!r}: choose one of {', '.join(choices)}")
    for name in ("epochs", "max_hours", "batch", "accumulate", "weight_lr", "temperature", "save_minutes", "log_steps"):
        if arguments[name] is not None and not arguments[name] > 0:
            raise InputError(f"{name} {arguments[name]}: must be above 0")
    for name in ("alpha", "dropout"):
        if not 0 <= arguments[name] <= 1:
            raise InputError(f"{name} {arguments[name]}: must be between 0 and 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not an empty folder; choose another name")


def start(work: Path, arguments: dict[str, Any], resume: bool) -> filelock.BaseFileLock:
    """Make the run's folder, or see that it belongs to a run with the same arguments, and that nobody is at it.

    Returns the lock that keeps others out: to be released when the run ends, or by the system when the process dies.
    """
    record, lock = work / "arguments.json", filelock.FileLock(f"{work}.lock")
    with PartialState().main_process_first():
        if not PartialState().is_main_process:
            return lock
        work.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"{work}: another run is at work there") from None
        try:
            _take(work, record, arguments, resume)
        except InputError:
            lock.release()
            raise
    return lock


def _take(work: Path, record: Path, arguments: dict[str, Any], resume: bool) -> None:
    if record.exists():
        if not resume:
            raise InputError(f"{work}: holds a run already; go on with it (resume), or remove it")
        before = read_json(record)
        for name in sorted(arguments.keys() - MAY_CHANGE):
            if json.dumps(before.get(name)) != json.dumps(arguments[name]):
                raise InputError(f"{record}: the run has {name} {before.get(name)!r}, not {arguments[name]!r}")
        for path in work.glob("checkpoint-*"):
            if not (path / "complete").exists():
                shutil.rmtree(path)
    work.mkdir(parents=True, exist_ok=True)
    write_json(record, arguments)


def last_checkpoint(work: Path) -> str | None:
    """The newest checkpoint in a run's folder that is complete."""
    found = [path.parent for path in work.glob("checkpoint-*/complete")]
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


def log(work: Path, before: Path | None) -> str:
    """The run's log; after that of the run that made its student, if there was one, and counting on from there."""
    own, *earlier = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (work / "log.jsonl", *([before / "log.jsonl"] if before else []))
        if path.exists()
    ]
    for lines in filter(None, earlier):
        own = lines + [line | {name: line[name] + lines[-1][name] for name in COUNTED} for line in own]
    return "".join(json.dumps(line) + "\n" for line in own)


def recorded(name: str, value: Any) -> Any:
    """An argument as model_meta.json keeps it: of a path the last part, which tells nothing of the machine."""
    is_path = isinstance(value, str) and (name in ("out", "work") or Path(value).exists())
    return Path(value).name if is_path else value
