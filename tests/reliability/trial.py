"""What the trials share: sections of the page, commands called in this process or another, small models and data."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import builders
import psutil
from conftest import DATA, ROOT, pruned, write_2021

from qalib.cli import commands
from qalib.model import checkpoint, saving
from qalib.qa.squad import Question
from qalib.utils.files import write_json

__all__ = ["DATA", "ROOT", "write_2021"]
SEED = 7
COMMAND = [sys.executable, "-c", "from qalib.cli import main; main()"]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
QUICK = {"batch": 1, "length": 16, "repeats": 1, "evaluated": 3, "evaluation_repeats": 1, "timed_questions": 2,
         "steps": 4}  # fmt: skip


@dataclass
class Section:
    """A part of the page: what it is about, a table, what its words mean, and which expectations failed."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: list[tuple] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def row(self, *values: Any) -> None:
        """Add a row to the table."""
        assert len(values) == len(self.columns)
        self.rows.append(values)

    def expect(self, holds: bool, what: str) -> bool:
        """Keep what failed if something does not hold."""
        if not holds:
            self.failed.append(what)
        return holds


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int | str
    out: str
    err: str


def call(*arguments: Any) -> Outcome:
    """Run a command through its real entry point, in this process; one that is not ended in order has no exit code."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    given = mock.patch.object(sys, "argv", ["qalib", *map(str, arguments)])
    try:
        with given, redirect_stdout(out), redirect_stderr(err):
            commands.main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException as error:  # one that came through everything
        code = f"{type(error).__name__}: {error}"
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: Any, **options: Any) -> subprocess.Popen:
    """Start a command as a process of its own."""
    usual = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **usual | options)


class Killed(Exception):
    """A process was killed; `left` are the processes that it had started and that lived on."""

    def __init__(self, left: list[str]):
        super().__init__(f"killed; still running: {left}")
        self.left = left


def finish(process: subprocess.Popen, seconds: float = 600) -> Outcome:
    """Wait for a process. Raises Killed once one that takes longer was killed, and what it started had time to end."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(started, timeout=60)
        left = [str(child) for child in alive]
        for child in alive:
            child.kill()
        process.communicate()
        raise Killed(left) from None
    return Outcome(process.returncode, out, err)


def tiny(folder: Path) -> tuple[Path, Path]:
    """A tiny random BERT in transformers' form, and the same block-sparse and packed: two folders in `folder`."""
    import runpy

    dense, packed = folder / "tiny", folder / "tiny-sparse"
    if not packed.exists():
        runpy.run_path(str(DATA / "record_pipeline_v4.py"))["tiny_model"](dense)
        saving.save_packed(pruned(checkpoint.load(dense)), packed, "fp32")
    return dense, packed


def questions(count: int = 8) -> dict[str, Any]:
    """A SQuAD v1.1 file of short questions, as a value."""
    words = "one two red blue cat dog sun sea".split() * -(-count // 8)
    return builders.squad_value(
        Question(f"q{n}", "t", f"What is {word}?", f"It is {word} " * (1 + n % 8), (word,), (6,))
        for n, word in enumerate(words[:count])
    )


def asked(path: Path, count: int = 8) -> Path:
    """The same as a file."""
    return write_json(path, questions(count))


def files(folder: Path) -> dict[str, int]:
    """Every file in a folder, hidden ones too, with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def as_json(outcome: Outcome) -> dict[str, Any]:
    """What a command printed with --json."""
    return json.loads(outcome.out)


def of(count: int, what: str) -> str:
    """A number with its noun."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
