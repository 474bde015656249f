"""Peers: other libraries' ways to run the same model, to hold the runtimes of this project against.

They are given the dense model, zeros included, as a user would: none of them knows blocks. Optional: extra `peers`.
DeepSparse, which skips zeros, has a module of its own.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qalib.runtimes import onnx_graph
from qalib.runtimes.onnx_graph import INPUTS, Logits, example, quiet

Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


def not_installed(*packages: str) -> Callable[[], str | None]:
    """A function that says which of the packages are not installed, and how to get them, or None."""

    def unavailable_reason() -> str | None:
        absent = [name for name in packages if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)} (make peers)" if absent else None

    return unavailable_reason


class Session(nn.Module):
    """Another library's model, called as BertForQuestionAnswering is."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> QuestionAnsweringModelOutput:
        """Token numbers of shape `(batch, length)` to two tensors of logits of that shape, float32."""
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        values = [tensor.numpy() for tensor in (input_ids, mask, types)]
        starts, ends = self.run(dict(zip(INPUTS, values, strict=True)))
        return QuestionAnsweringModelOutput(start_logits=torch.from_numpy(starts), end_logits=torch.from_numpy(ends))


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
        found = compiled(list(values.values()))
        return [found[0].copy(), found[1].copy()]

    return Session(run)


def onnxruntime_int8(model: BertForQuestionAnswering) -> Session:
    """ONNX Runtime with int8 weights, channel by channel, and activations quantised as they come; torch's threads."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        graph = onnx_graph.quantise(onnx_graph.write(model.eval(), Path(folder) / "plain.onnx"), signed=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Session(lambda values: session.run(None, values))


def torchao_int8(model: BertForQuestionAnswering) -> BertForQuestionAnswering:
    """torchao with int8 weights and activations quantised as they come, compiled by torch; the model itself."""
    with quiet():
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    model.compile()
    return model
