"""OpenVINO, dense, in float32 or bfloat16."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import BertForQuestionAnswering

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export.onnx_graph import Logits, example, quiet
from qalib.runtimes.peers.session import PEER, Session
from qalib.runtimes.registry import not_installed, runtime


def openvino(model: BertForQuestionAnswering, dtype: torch.dtype) -> Session:
    """OpenVINO on the CPU, for latency, with torch's number of threads; computes in float32 or bfloat16."""
    import openvino

    with quiet():
        graph = openvino.convert_model(Logits(model), example_input=example())
    precision = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(
        graph, "CPU", settings | {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    )

    def run(values: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        logits = compiled(list(values.values()))
        return [logits[0].copy(), logits[1].copy()]

    return Session(run)


@runtime("openvino", "OpenVINO, dense", unavailable_reason=not_installed("openvino"), **PEER)
def _openvino(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return openvino(copy.deepcopy(checkpoint.model), dtype)
