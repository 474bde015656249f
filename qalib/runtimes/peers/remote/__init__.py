"""A peer in an environment and a process of its own, as it requires older packages than this project."""

import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from qalib.runtimes.export.onnx_graph import INPUTS
from qalib.runtimes.peers.remote import pipe
from qalib.runtimes.peers.session import Session
from qalib.utils.errors import InputError, one_line
from qalib.utils.paths import ROOT

ERROR_LINES = 3  # of what the process said before it ended
TIMED = "timed around the engine's run, in its own process; IPC overhead is excluded"


@dataclass(frozen=True)
class Environment:
    """The environment of a library: its name, the package it is, and the make target that installs it.

    It is the folder `.venv-TARGET`, or the one whose python an environment variable names (QALIB_TARGET).
    """

    library: str
    package: str
    target: str

    @property
    def python(self) -> Path:
        """The python of the environment, which need not exist."""
        variable = f"QALIB_{self.target.replace('-', '_').upper()}"
        return Path(os.environ.get(variable) or ROOT / f".venv-{self.target}" / "bin" / "python")

    def unavailable_reason(self) -> str | None:
        """Why the library cannot be used here, or None."""
        interpreter = self.python
        shown = interpreter.relative_to(ROOT) if interpreter.is_relative_to(ROOT) else interpreter
        if (has_package := _has_package(interpreter, self.package)) is None:
            return f"not installed: there is no {shown} (make {self.target})"
        return None if has_package else f"not installed: {shown} has no {self.package} (make {self.target})"


@cache
def _has_package(interpreter: Path, package: str) -> bool | None:
    check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{package}') is None)"
    try:
        return subprocess.run([interpreter, "-I", "-c", check], capture_output=True).returncode == 0
    except OSError:
        return None


class Remote(Session):
    """A model that a library runs in a process of its own, which is stopped between batches.

    Outputs have the seconds of the library's run by that process's clock, IPC overhead excluded. `details` are the
    other numbers of the last result. `worker`, a file, builds the model from a path, torch's number of threads and
    `arguments`.
    """

    def __init__(
        self, environment: Environment, worker: Path, path: Path, *arguments: str, names: Sequence[str] = INPUTS
    ):
        nn.Module.__init__(self)
        self.library, self.names = environment.library, names  # of the graph's inputs
        self.details: dict[str, float] = {}
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [environment.python, "-I", pipe.__file__, worker, path, str(torch.get_num_threads()), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        weakref.finalize(self, _end, self.process, self.log)

    def run(self, batch: dict[str, np.ndarray]) -> list[Any]:
        """Return start logits, end logits and seconds. Raises InputError if the library fails or the process ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None  # opened as pipes
        try:
            self.process.send_signal(signal.SIGCONT)
            pipe.send(stdin, {name: batch[name] for name in self.names})
            reply = pipe.receive(stdout)
        except (OSError, EOFError) as error:
            raise InputError(f"{self.library}: {one_line(error)}: {self._last_words()}") from None
        if reply is None:
            code = self.process.wait()
            raise InputError(f"{self.library} ended with exit code {code}: {self._last_words()}")
        if "error" in reply:
            raise InputError(f"{self.library}: {reply['error']}")
        self.process.send_signal(signal.SIGSTOP)  # its threads wait by spinning, in others' time
        logits = [reply.pop("start_logits"), reply.pop("end_logits")]
        self.details = {name: float(value) for name, value in reply.items()}
        return [*logits, self.details["seconds"]]

    def _last_words(self) -> str:
        self.log.seek(0)
        return " ".join(self.log.read().decode(errors="replace").split("\n")[-ERROR_LINES - 1 :]).strip()


def _end(process: subprocess.Popen, log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in filter(None, (process.stdin, process.stdout, log)):
        with suppress(BrokenPipeError):  # what a process that ended before has not read
            stream.close()


def __dir__() -> list[str]:
    return ["Environment", "Remote", "pipe"]
