"""DeepSparse running one graph in a process of its own."""

import math
import tempfile
import weakref
from pathlib import Path
from typing import cast

from torch import nn
from transformers import BertForQuestionAnswering

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.peers.deepsparse.graph import inputs, write
from qalib.runtimes.peers.deepsparse.int8 import quantise
from qalib.runtimes.peers.remote import TIMED, Environment, Remote
from qalib.runtimes.registry import not_installed

ENVIRONMENT = Environment("DeepSparse", "deepsparse", "deepsparse")
WORKER = Path(__file__).with_name("worker.py")
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def unavailable_reason() -> str | None:
    """Why DeepSparse cannot be used here, or None."""
    return ENVIRONMENT.unavailable_reason() or not_installed(*PACKAGES)()


def caveat(checkpoint: Checkpoint, module: nn.Module) -> str:
    """Return what a time of a `Remote` covers, and how much of the graph the engine supports."""
    return (
        f"{TIMED}; the engine supports {100 * cast(Remote, module).details.get('supported', math.nan):.0f} % of the "
        "graph's operations"
    )


def build(model: BertForQuestionAnswering, int8: bool) -> Remote:
    """DeepSparse in float32 or int8 (calibrated on random tokens), with torch's number of threads."""
    folder = tempfile.TemporaryDirectory()
    graph = write(model.eval(), Path(folder.name) / "plain.onnx")
    if int8:
        graph = quantise(graph, model.config.vocab_size)
    module = Remote(ENVIRONMENT, WORKER, graph, names=inputs(graph))
    weakref.finalize(module, folder.cleanup)
    return module
