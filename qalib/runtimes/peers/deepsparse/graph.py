"""The graphs that DeepSparse understands: opset 13, with the operators that BERTs of its time were exported to."""

import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertSelfAttention

from qalib.model import bert
from qalib.model.relative_positions import RelativeEncoder
from qalib.runtimes.export.onnx_graph import INPUTS, OUTPUTS, example, quiet

OPSET = 13
MASKED = -1e4  # added to a score: no weight is left of it


class Plain(nn.Module):
    """A model whose attention and mask are the few operators that the engine has a kernel for."""

    def __init__(self, model: BertForQuestionAnswering):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token numbers of shape `(batch, length)` to start and end logits of that shape."""
        x = self.model.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        mask = (1 - attention_mask[:, None, None, :].to(x.dtype)) * MASKED
        if isinstance(encoder := self.model.bert.encoder, RelativeEncoder):
            mask = encoder.position_bias(x, mask).mask
        for layer in bert.layers(self.model):
            attention = cast(BertSelfAttention, layer.attention.self)
            x = layer.attention.output(self._attend(attention, x, mask), x)
            x = layer.output(layer.intermediate(x), x)
        starts, ends = self.model.qa_outputs(x).split(1, -1)
        return starts.squeeze(-1), ends.squeeze(-1)

    def _attend(self, attention: BertSelfAttention, x: Tensor, mask: Tensor) -> Tensor:
        size, shape = attention.attention_head_size, (*x.shape[:2], attention.num_attention_heads, -1)
        parts = (attention.query(x), attention.key(x), attention.value(x))
        query, key, value = (part.view(shape).permute(0, 2, 1, 3) for part in parts)
        weights = (query @ key.transpose(-1, -2) / math.sqrt(size) + mask).softmax(-1)
        return (weights @ value).permute(0, 2, 1, 3).reshape(*x.shape[:2], -1)


def inputs(graph: Path) -> list[str]:
    """The inputs of a graph: those of INPUTS that the model uses, as not all have token types."""
    import onnx

    return [value.name for value in onnx.load(graph).graph.input]


def write(model: BertForQuestionAnswering, out: Path) -> Path:
    """Write a model in eval mode as a float32 graph, zeros included."""
    names = (*INPUTS, *OUTPUTS)
    with quiet(), torch.no_grad():
        torch.onnx.export(
            Plain(model).eval(), example(), out, dynamo=False, opset_version=OPSET, input_names=INPUTS,
            output_names=OUTPUTS, dynamic_axes={name: {0: "batch_size", 1: "sequence_length"} for name in names},
        )  # fmt: skip
    return out
