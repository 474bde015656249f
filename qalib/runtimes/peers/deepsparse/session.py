"""A session: DeepSparse running one graph in a process of its own."""

import math
import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn
from transformers import BertForQuestionAnswering

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export.onnx_graph import INPUTS, OUTPUTS
from qalib.runtimes.peers.deepsparse import worker
from qalib.runtimes.peers.deepsparse.graph import inputs, write
from qalib.runtimes.peers.deepsparse.int8 import quantise
from qalib.runtimes.peers.session import Session
from qalib.runtimes.registry import not_installed
from qalib.utils.errors import InputError, one_line
from qalib.utils.paths import ROOT

PYTHON = "QALIB_DEEPSPARSE"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
ERROR_LINES = 3  # of what the process said before it ended


def python() -> Path:
    """The python of the environment that has DeepSparse, or should have it."""
    return Path(os.environ.get(PYTHON) or ROOT / ".venv-deepsparse" / "bin" / "python")


def unavailable_reason() -> str | None:
    """Why DeepSparse cannot be used here, or None."""
    return _environment_lacks(python()) or not_installed(*PACKAGES)()


@cache
def _environment_lacks(interpreter: Path) -> str | None:
    check = "import importlib.util, sys; sys.exit(importlib.util.find_spec('deepsparse') is None)"
    try:
        installed = subprocess.run([interpreter, "-I", "-c", check], capture_output=True).returncode == 0
    except OSError:
        return f"not installed: there is no {_shown(interpreter)} (make deepsparse)"
    return None if installed else f"not installed: {_shown(interpreter)} has no deepsparse (make deepsparse)"


def _shown(interpreter: Path) -> Path:
    """A path as reports print it, which say nothing of the machine's folders."""
    return interpreter.relative_to(ROOT) if interpreter.is_relative_to(ROOT) else interpreter


class Remote(Session):
    """A graph that DeepSparse runs in a process of its own, which is stopped between batches.

    Outputs have the seconds of the engine's run by that process's clock, IPC overhead excluded. `supported` is the
    share of the graph's operations that the engine runs by itself (0 to 1), NaN before the first batch.
    """

    def __init__(self, graph: Path, interpreter: Path, threads: int, names: Sequence[str] = INPUTS):
        nn.Module.__init__(self)
        self.names = names  # of the graph's inputs
        self.supported = math.nan
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [interpreter, "-I", worker.__file__, str(graph), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        weakref.finalize(self, _end, self.process, self.log)

    def run(self, batch: dict[str, np.ndarray]) -> list[Any]:
        """Return start logits, end logits and seconds. Raises InputError if the engine fails or the process ended."""
        try:
            self.process.send_signal(signal.SIGCONT)
            worker.send(self.process.stdin, {name: batch[name] for name in self.names})
            reply = worker.receive(self.process.stdout)
        except (OSError, EOFError) as error:
            raise InputError(f"DeepSparse: {one_line(error)}: {self._last_words()}") from None
        if reply is None:
            raise InputError(f"DeepSparse ended with exit code {self.process.wait()}: {self._last_words()}")
        if "error" in reply:
            raise InputError(f"DeepSparse: {reply['error']}")
        self.process.send_signal(signal.SIGSTOP)  # its threads wait by spinning, in others' time
        self.supported = float(reply["supported"])
        return [*(reply[name] for name in OUTPUTS), float(reply["seconds"])]

    def _last_words(self) -> str:
        self.log.seek(0)
        return " ".join(self.log.read().decode(errors="replace").split("\n")[-ERROR_LINES - 1 :]).strip()


def caveat(checkpoint: Checkpoint, module: nn.Module) -> str:
    """Return what a time of a `Remote` covers, and how much of the graph the engine supports."""
    return (
        "timed around the engine's run, in its own process: the way there and back is not counted; the engine "
        f"supports {100 * module.supported:.0f} % of the graph's operations"
    )


def _end(process: subprocess.Popen, log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, log):
        with suppress(BrokenPipeError):  # what a process that ended before has not read
            stream.close()


def build(model: BertForQuestionAnswering, int8: bool) -> Remote:
    """DeepSparse in float32 or int8 (calibrated on random tokens), with torch's number of threads."""
    folder = tempfile.TemporaryDirectory()
    graph = write(model.eval(), Path(folder.name) / "plain.onnx")
    if int8:
        graph = quantise(graph, model.config.vocab_size)
    module = Remote(graph, python(), torch.get_num_threads(), inputs(graph))
    weakref.finalize(module, folder.cleanup)
    return module
