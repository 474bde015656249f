"""ONNX: a model as a graph that onnxruntime, OpenVINO and transformers.js take as it is.

Inputs, outputs and axes have the names that `optimum` gives them:

    input_ids, attention_mask, token_type_ids    int64    (batch_size, sequence_length)
    start_logits, end_logits                     float32  (batch_size, sequence_length)
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering

from qalib.utils.errors import InputError

OPSET = 20  # the first with GELU as one operator; onnxruntime reads it from 1.17 on
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
AXES = {0: torch.export.Dim("batch_size"), 1: torch.export.Dim("sequence_length")}
TOLERANCE = 1e-4  # of a logit, in float32
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Logits(nn.Module):
    """The model with positional inputs and a pair of outputs, which is what can be exported."""

    def __init__(self, model: BertForQuestionAnswering):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token numbers of shape `(batch, length)` to start and end logits of that shape."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return output.start_logits, output.end_logits


def write(model: BertForQuestionAnswering, out: Path) -> Path:
    """Write a model in eval mode, dense or cut (`compact`), as one float32 file."""
    return export(Logits(model), example(), out, INPUTS, (AXES,) * len(INPUTS))


def export(
    module: nn.Module, inputs: tuple[Any, ...], out: Path, names: Sequence[str], axes: Sequence[dict | list | None]
) -> Path:
    """Write a module that gives start and end logits; `names` and `axes` (those that vary) are its inputs'."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with quiet(), torch.no_grad():
        torch.onnx.export(
            module.eval(), inputs, out, dynamo=True, verbose=False, opset_version=OPSET, external_data=False,
            dynamic_shapes=tuple(axes), input_names=names, output_names=OUTPUTS,
        )  # fmt: skip
    return out


def quantise(graph: Path, out: Path | None = None, signed: bool = False) -> Path:
    """Write a graph with 8-bit weights, channel by channel, and activations quantised as they come.

    Signed weights are the faster ones, but without VNNI instructions onnxruntime's sums of their products can saturate.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = out or graph.with_name(f"{graph.stem}_quantized.onnx")
    with quiet():
        kind = QuantType.QInt8 if signed else QuantType.QUInt8
        quantize_dynamic(graph, out, weight_type=kind, per_channel=True)
    return out


def difference(graph: Path, model: BertForQuestionAnswering) -> float:
    """The largest difference of a logit between onnxruntime and torch, over batches of two shapes, one padded."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for shape in ((1, 9), (3, 40)):
        ids = torch.randint(model.config.vocab_size, shape, generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, 7:] = 0
        values = (ids, mask, torch.randint(model.config.type_vocab_size, shape, generator=generator))
        with torch.inference_mode():
            expected = Logits(model)(*values)
        inputs = dict(zip(INPUTS, values, strict=True))
        found = session.run(None, {name: inputs[name].numpy() for name in names})
        for ours, theirs in zip(expected, found, strict=True):
            largest = max(largest, float(np.abs(ours.numpy() - theirs)[mask.bool().numpy()].max()))
    return largest


def check(graph: Path, model: BertForQuestionAnswering) -> float:
    """The `difference` of a float32 graph. Raises InputError if it is above TOLERANCE."""
    if not (found := difference(graph, model)) <= TOLERANCE:
        raise InputError(f"{graph.name}: a logit differs by {found:.2g} from torch's, expected {TOLERANCE:g} at most")
    return found


def example() -> tuple[Tensor, ...]:
    """Inputs to trace a model with."""
    return tuple(torch.ones(2, 16, dtype=torch.long) for _ in INPUTS)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the many words of exporters about things that do not concern the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
