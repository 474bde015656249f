"""OpenVINO: dense in float32 or bfloat16, and in int8 by NNCF's post-training quantization, with sparse weights or
without (CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE: matrices of that share of zeros are kept compressed, with AMX only)."""

import copy
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertForQuestionAnswering

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export.onnx_graph import Logits, example, quiet
from qalib.runtimes.peers import calibration
from qalib.runtimes.peers.session import PEER, Session
from qalib.runtimes.registry import not_installed, runtime

SPARSE = 0.5  # share of zeros from which a matrix's weights are kept compressed


def openvino(model: BertForQuestionAnswering, dtype: torch.dtype) -> Session:
    """OpenVINO on the CPU in float32 or bfloat16."""
    precision = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    return _session(_graph(model), {"INFERENCE_PRECISION_HINT": precision})


def openvino_int8(model: BertForQuestionAnswering, sparse: bool = False) -> Session:
    """OpenVINO with weights and activations in int8, calibrated on random tokens; what is left is in float32."""
    import nncf

    batches = [list(batch.values()) for batch in calibration.batches(model.config.vocab_size)]
    with quiet(), redirect_stdout(sys.stderr):  # where its progress belongs
        graph = nncf.quantize(
            _graph(model), nncf.Dataset(batches), subset_size=len(batches), model_type=nncf.ModelType.TRANSFORMER
        )
    rate = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": SPARSE} if sparse else {}
    return _session(graph, {"INFERENCE_PRECISION_HINT": "f32"} | rate)


def _graph(model: BertForQuestionAnswering) -> Any:
    from openvino import convert_model  # pyright: ignore[reportAttributeAccessIssue]  # not installed

    with quiet():
        return convert_model(Logits(model), example_input=example())


def _session(graph: Any, settings: dict[str, Any]) -> Session:
    """A graph compiled for the CPU, for latency, with torch's number of threads."""
    from openvino import Core  # pyright: ignore[reportAttributeAccessIssue]  # not installed

    settings = settings | {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = Core().compile_model(graph, "CPU", settings)

    def run(values: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        logits = compiled(list(values.values()))
        return [logits[0].copy(), logits[1].copy()]

    return Session(run)


@runtime("openvino", "OpenVINO, dense", unavailable_reason=not_installed("openvino"), **PEER)
def _openvino(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return openvino(copy.deepcopy(checkpoint.model), dtype)


INT8 = PEER | {"exact": False, "dtypes": ("fp32",), "unavailable_reason": not_installed("openvino", "nncf")}


@runtime("openvino-int8", "OpenVINO, dense, static int8 by NNCF", **INT8)
def _openvino_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return openvino_int8(copy.deepcopy(checkpoint.model))


@runtime("openvino-int8-sparse", "OpenVINO, static int8 by NNCF, with sparse weights", **INT8 | {"sparse": True})
def _openvino_int8_sparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return openvino_int8(copy.deepcopy(checkpoint.model), sparse=True)
