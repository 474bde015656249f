"""A session: DeepSparse running one graph in a process of its own."""

import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertForQuestionAnswering

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
    looks = "import importlib.util, sys; sys.exit(importlib.util.find_spec('deepsparse') is None)"
    try:
        found = subprocess.run([interpreter, "-I", "-c", looks], capture_output=True).returncode == 0
    except OSError:
        return f"not installed: there is no {_shown(interpreter)} (make deepsparse)"
    return None if found else f"not installed: {_shown(interpreter)} has no deepsparse (make deepsparse)"


def _shown(interpreter: Path) -> Path:
    """A path as reports print it, which say nothing of the machine's folders."""
    return interpreter.relative_to(ROOT) if interpreter.is_relative_to(ROOT) else interpreter


class Remote(Session):
    """A graph that DeepSparse runs in a process of its own, which rests while it is not asked.

    `seconds` is how long the engine ran for the last batch, by that process's clock: the way there and back is not in
    it. `remark` says so, and how much of the graph the engine runs by itself.
    """

    def __init__(self, graph: Path, interpreter: Path, threads: int, names: Sequence[str] = INPUTS):
        nn.Module.__init__(self)
        self.names = names  # of the graph's inputs
        self.seconds, self.remark = 0.0, ""
        self.said = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [interpreter, "-I", worker.__file__, str(graph), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said,
        )  # fmt: skip
        weakref.finalize(self, _end, self.process, self.said)

    def run(self, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Start and end logits of a batch. Raises InputError if the engine cannot do it or the process has ended."""
        try:
            self.process.send_signal(signal.SIGCONT)
            worker.send(self.process.stdin, {name: batch[name] for name in self.names})
            found = worker.receive(self.process.stdout)
        except (OSError, EOFError) as error:
            raise InputError(f"DeepSparse: {one_line(error)}: {self._last_words()}") from None
        if found is None:
            raise InputError(f"DeepSparse ended with exit code {self.process.wait()}: {self._last_words()}")
        if "error" in found:
            raise InputError(f"DeepSparse: {found['error']}")
        self.process.send_signal(signal.SIGSTOP)  # its threads wait by spinning, in others' time
        self.seconds = float(found["seconds"])
        self.remark = (
            "timed around the engine's run, in its own process: the way there and back is not counted; the engine "
            f"supports {100 * float(found['supported']):.0f} % of the graph's operations"
        )
        return [found[name] for name in OUTPUTS]

    def _last_words(self) -> str:
        self.said.seek(0)
        return " ".join(self.said.read().decode(errors="replace").split("\n")[-ERROR_LINES - 1 :]).strip()


def _end(process: subprocess.Popen, said: tempfile.TemporaryFile) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, said):
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
