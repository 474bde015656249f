"""The folder of a pruning run: its settings, its log and its checkpoints, and the lock that keeps others out."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch
from accelerate import PartialState

from qalib.pruning.config import EARLIER_WORDS
from qalib.utils import distributed
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json, write_text

MAY_CHANGE = {
    "resume", "max_hours", "save_minutes", "log_steps", "out", "work", "teacher_cache", "eval_data", "precision",
}  # fmt: skip
RECORD = "arguments.json"
DTYPE = "dtype"  # what `precision: auto` stands for, in the record
CUMULATIVE = ("step", "windows", "seconds")  # in a line of the log, counted from the start of the run


class RunFolder:
    """A run's folder: `arguments.json`, `log.jsonl` and `checkpoint-STEP/`.

    Processes on several machines must see the same folder: the first writes what all of them continue from.
    """

    def __init__(self, path: Path):
        self.path, self.log = path, path / "log.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out for the length of the block. Raises InputError if one is at work there."""
        lock = filelock.FileLock(f"{self.path}.lock")
        try:
            with PartialState().main_process_first():
                if distributed.is_main_process():
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"{self.path}: another run is at work there") from None
        try:
            yield
        finally:
            lock.release()

    def check(self, arguments: dict[str, Any], resume: bool) -> None:
        """Raise InputError if the folder holds a run, unless it is to be resumed and has the same arguments."""
        if not self.started():
            return
        record = self.path / RECORD
        if not resume:
            raise InputError(f"{self.path}: already holds a run; resume it (--resume) or remove it")
        before = read_json(record)
        for name in sorted((arguments.keys() & before.keys()) - MAY_CHANGE):
            old = before[name]
            old = EARLIER_WORDS.get(name, {}).get(old, old) if isinstance(old, str) else old
            new = json.loads(json.dumps(arguments[name]))  # as it is read back: a list for a tuple
            if old != new:
                raise InputError(f"{record}: the run has {name} {old!r}, not {new!r}")

    def start(self, arguments: dict[str, Any], dtype: str) -> None:
        """Write arguments and type down, and remove checkpoints whose writing was interrupted."""
        for path in self.path.glob("checkpoint-*"):
            if not (path / "complete").exists():
                shutil.rmtree(path)
        write_json(self.path / RECORD, arguments | {DTYPE: dtype})

    def dtype(self) -> str | None:
        """The type that the run has been trained in, if it has begun."""
        return read_json(self.path / RECORD).get(DTYPE) if self.started() else None

    def started(self) -> bool:
        """Whether a run has begun here, as this process sees it."""
        return (self.path / RECORD).exists()

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is complete."""
        found = [path.parent for path in self.path.glob("checkpoint-*/complete")]
        return max(found, key=lambda path: int(path.name.split("-")[1])) if found else None

    def save(self, step: int, name: str, state: dict[str, Any]) -> None:
        """Write a state as the only file of the step's checkpoint, and remove the checkpoints before it."""
        path = self.path / f"checkpoint-{step}"
        path.mkdir()
        torch.save(state, path / name)
        (path / "complete").touch()
        for other in self.path.glob("checkpoint-*"):
            if other != path:
                shutil.rmtree(other)

    def truncate_log(self, step: int) -> None:
        """Drop the lines of the log that a run resumed at `step` will write again."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True) if self.log.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
        write_text(self.log, "".join(line for line in whole if json.loads(line)["step"] <= step))

    def append_to_log(self, line: dict[str, Any]) -> None:
        """Write one more line."""
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def full_log(self, student: Path | None = None) -> str:
        """The run's log, preceded by that of the run that made its student, if any, and counting on from there."""
        paths = [self.log, *([student / "log.jsonl"] if student else [])]
        own, *earlier = [
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for path in paths
            if path.exists()
        ]
        for lines in filter(None, earlier):
            own = lines + [line | {name: line[name] + lines[-1][name] for name in CUMULATIVE} for line in own]
        return "".join(json.dumps(line) + "\n" for line in own)
