"""Peers: other libraries' ways to run the same model, to hold the runtimes of this project against.

They are given the dense model, zeros included, as a user would: none of them knows blocks. Optional: extra `peers`.
"""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
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
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> QuestionAnsweringModelOutput:
        """Token numbers of shape `(batch, length)` to two tensors of logits of that shape, float32."""
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        values = [tensor.numpy() for tensor in (input_ids, attention_mask, types)]
        starts, ends = self.run(dict(zip(INPUTS, values, strict=True)))
        return QuestionAnsweringModelOutput(start_logits=torch.from_numpy(starts), end_logits=torch.from_numpy(ends))


class _Logits(nn.Module):
    """The model with positional inputs and a pair of outputs, which is what can be exported."""

    def __init__(self, model: BertForQuestionAnswering):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return output.start_logits, output.end_logits


def openvino(model: BertForQuestionAnswering, dtype: torch.dtype) -> Session:
    """OpenVINO on the CPU, for latency, with torch's number of threads; computes in float32 or bfloat16."""
    import openvino

    with _quiet():
        graph = openvino.convert_model(_Logits(model), example_input=_example())
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
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "quantised.onnx"
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
        torch.onnx.export(
            _Logits(model), _example(), plain, dynamo=True, verbose=False,
            dynamic_shapes=(sizes, sizes, sizes), input_names=INPUTS, output_names=("starts", "ends"),
        )  # fmt: skip
        quantize_dynamic(plain, quantised, weight_type=QuantType.QInt8, per_channel=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    return Session(lambda values: session.run(None, values))


def torchao_int8(model: BertForQuestionAnswering) -> BertForQuestionAnswering:
    """torchao with int8 weights and activations quantised as they come, compiled by torch; the model itself."""
    with _quiet():
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    model.compile()
    return model


def _example() -> tuple[Tensor, ...]:
    return tuple(torch.ones(2, 16, dtype=torch.long) for _ in INPUTS)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the many words of exporters about things that do not concern the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
