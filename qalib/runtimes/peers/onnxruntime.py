"""ONNX Runtime, dense, dynamic int8."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn
from transformers import BertForQuestionAnswering

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export import onnx_graph
from qalib.runtimes.peers.session import PEER, Session
from qalib.runtimes.registry import not_installed, runtime


def onnxruntime_int8(model: BertForQuestionAnswering) -> Session:
    """ONNX Runtime with int8 weights, channel by channel, and activations quantised as they come; torch's threads."""
    from onnxruntime import InferenceSession, SessionOptions  # pyright: ignore[reportAttributeAccessIssue]  # not installed

    with tempfile.TemporaryDirectory() as folder:
        graph = onnx_graph.quantise(onnx_graph.write(model.eval(), Path(folder) / "plain.onnx"), signed=True)
        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Session(lambda values: session.run(None, values))


@runtime(
    "onnxruntime-int8",
    "ONNX Runtime, dense, dynamic int8",
    exact=False,
    dtypes=("fp32",),
    unavailable_reason=not_installed("onnx", "onnxscript", "onnxruntime"),
    **PEER,
)
def _onnxruntime_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return onnxruntime_int8(copy.deepcopy(checkpoint.model))
