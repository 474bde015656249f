"""A report's draft: what it is made from and how far it got, so that an interrupted run can resume."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qalib.model import checkpoint
from qalib.qa import squad
from qalib.runtimes.cpu import instruction_sets
from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, sha256, write_json
from qalib.utils.paths import PACKAGE

STATE_FILE = "state.json"  # in a draft: what is done


@dataclass(frozen=True)
class Inputs:
    """What a report is made from; notebooks finished for an equal `key` need not run again."""

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
            "machine": machine.specs(),  # as times depend on it
            "kernel": instruction_sets.unavailable_reason() or instruction_sets.available(),
        }

    def digest(self, notebooks: Sequence[Path]) -> str:
        """One hash of everything that a report is made from."""
        made_of = [self.key, [[path.stem, sha256(path)] for path in notebooks]]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class FinishedNotebook:
    """A notebook that has been run: its name, the SHA-256 of its source, and the seconds it took."""

    name: str
    sha256: str
    seconds: float


@dataclass
class State:
    """How far a draft has got: the `key` of its inputs and the steps done, in order."""

    key: dict[str, Any]
    done: list[FinishedNotebook] = field(default_factory=list)

    @classmethod
    def read(cls, draft: Path) -> "State | None":
        """The state of a draft folder; None if there is no usable one."""
        try:
            state = read_json(draft / STATE_FILE)
            return cls(state["key"], [FinishedNotebook(**step) for step in state["done"]])
        except (InputError, KeyError, TypeError):
            return None

    def write(self, draft: Path) -> None:
        """Save it in the draft, for a run to resume from."""
        write_json(draft / STATE_FILE, asdict(self))


def resume(draft: Path, key: dict[str, Any], fresh: bool) -> State:
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
