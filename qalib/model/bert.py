"""The parts of a BERT encoder that pruning deals with: six matrices per layer, attention heads, FFN neurons.

Rows of a weight are outputs, columns inputs. Head `h` of a layer owns the rows `h*size ... (h+1)*size` of
query, key and value, and the same columns of the attention output. FFN neuron `n` owns row `n` of FFN in
and column `n` of FFN out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast, overload

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.mpnet.modeling_mpnet import MPNetEmbeddings
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from qalib.utils import openmp

openmp.respect_limits()  # before the first product

LINEAR_LAYERS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention output": "attention.output.dense",
    "FFN in": "intermediate.dense",
    "FFN out": "output.dense",
}


@dataclass(frozen=True)
class Matrix:
    """One of the encoder's linear layers: layer number, kind (a key of LINEAR_LAYERS), parameter prefix and module."""

    layer: int
    kind: str
    name: str
    linear: nn.Linear


def layers(model: BertForQuestionAnswering) -> list[BertLayer]:
    """The encoder layers, first to last."""
    return cast(list[BertLayer], list(model.bert.encoder.layer))


def linear(layer: BertLayer, kind: str) -> nn.Linear:
    """The linear layer of a kind (a key of LINEAR_LAYERS)."""
    return cast(nn.Linear, layer.get_submodule(LINEAR_LAYERS[kind]))


def matrices(model: BertForQuestionAnswering) -> list[Matrix]:
    """All encoder matrices (6 per layer), layer by layer in the order of LINEAR_LAYERS."""
    return [
        Matrix(number, kind, f"bert.encoder.layer.{number}.{path}", linear(layer, kind))
        for number, layer in enumerate(layers(model))
        for kind, path in LINEAR_LAYERS.items()
    ]


class NoNorm(nn.Module):
    """What nn_pruning's "optimised" models use instead of LayerNorm: `weight * x + bias`, both of shape `(hidden,)`."""

    def __init__(self, size: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """For any shape `(..., hidden)`."""
        return self.weight * x + self.bias


def replace_layer_norms(model: BertForQuestionAnswering) -> BertForQuestionAnswering:
    """Replace every LayerNorm by a NoNorm, in place; returns the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm):
            model.set_submodule(name, NoNorm(module.normalized_shape[0]))
    return model


def resize(model: BertForQuestionAnswering, width: int) -> BertForQuestionAnswering:
    """Change the encoder's width, in place, but not its heads or neurons; returns the model, with new weights."""
    old = model.config.hidden_size
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding):
            new = nn.Embedding(module.num_embeddings, width, module.padding_idx)
        elif isinstance(module, nn.LayerNorm):
            new = nn.LayerNorm(width, module.eps)
        elif isinstance(module, nn.Linear) and name.endswith("output.dense"):
            new = nn.Linear(module.in_features, width)
        elif isinstance(module, nn.Linear) and module.in_features == old:
            new = nn.Linear(width, module.out_features)
        else:
            continue
        model.set_submodule(name, new)
    model.config.hidden_size = width
    return model


def matrix_shape(kind: str, config: BertConfig, width: int | None = None) -> tuple[int, int]:
    """Rows and columns of a kind of matrix (a key of LINEAR_LAYERS), unpruned, in an encoder of that width."""
    width = width or config.hidden_size
    heads = config.hidden_size  # all heads side by side
    inner = config.intermediate_size
    return {"attention output": (width, heads), "FFN in": (inner, width), "FFN out": (width, inner)}.get(
        kind, (heads, width)
    )


def to(
    model: BertForQuestionAnswering, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> BertForQuestionAnswering:
    """`model.to(...)`, in place: transformers' own takes no argument in the eyes of a type checker."""
    cast(nn.Module, model).to(device, dtype)
    return model


@overload
def max_tokens(model: BertForQuestionAnswering) -> int: ...
@overload
def max_tokens(model: nn.Module) -> int | None: ...
def max_tokens(model: nn.Module) -> int | None:
    """The most tokens that a window may have: all positions, or those after the padding token where they start there.

    None if the module's config doesn't say.
    """
    places = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    counted = (m.padding_idx for m in model.modules() if isinstance(m, RobertaEmbeddings | MPNetEmbeddings))
    padding = next(counted, -1)
    return places and places - padding - 1


def head_size(model: BertForQuestionAnswering) -> int:
    """Width of an attention head, unpruned."""
    return layers(model)[0].attention.self.attention_head_size


def replace_linears(
    model: BertForQuestionAnswering, make: Callable[[nn.Linear], nn.Module]
) -> BertForQuestionAnswering:
    """Replace each encoder matrix by what `make` returns, in place; all-zero ones stay. Returns the model."""
    for matrix in matrices(model):
        if matrix.linear.weight.any():
            model.set_submodule(matrix.name, make(matrix.linear))
    return model


def head_rows(heads: Iterable[int], size: int) -> Tensor:
    """The rows of query, key and value that belong to some heads, each of `size` rows; shape `(heads * size,)`."""
    return torch.tensor([head * size + row for head in heads for row in range(size)], dtype=torch.long)


def split_heads(rows: Tensor, heads: int) -> Tensor:
    """The leading dimension split into heads: shape `(heads*size, ...)` to `(heads, size, ...)`."""
    return rows.reshape(heads, -1, *rows.shape[1:])


def _zero(weight: Tensor, heads: int) -> Tensor:
    return ~split_heads(weight != 0, heads).flatten(1).any(1)


def heads_called_removed(layer: BertLayer, heads: int) -> Tensor:
    """The published cards' rule: query, key **or** value rows of the head are all zero. Bool, shape `(heads,)`.

    Counts more than can go without loss: a head with zero queries still averages its values.
    """
    attention = layer.attention.self
    parts = [_zero(linear.weight, heads) for linear in (attention.query, attention.key, attention.value)]
    return parts[0] | parts[1] | parts[2]


def heads_removable(layer: BertLayer, heads: int) -> Tensor:
    """Heads whose removal leaves the output unchanged. Bool, shape `(heads,)`.

    Either the head's columns of the attention output are zero, or its value weights are: then its output is
    its value bias at every position (attention weights sum to one), a constant that the output bias can take.
    """
    columns = layer.attention.output.dense.weight.T
    return _zero(columns, heads) | _zero(layer.attention.self.value.weight, heads)


def neurons_removable(layer: BertLayer) -> Tensor:
    """FFN neurons whose removal leaves the output unchanged. Bool, shape `(intermediate,)`.

    Either the neuron's column of FFN out is zero, or its row of FFN in is: then its activation is the
    constant `act(bias)`, which the output bias can take.
    """
    return ~(layer.output.dense.weight != 0).any(0) | ~(layer.intermediate.dense.weight != 0).any(1)


def constant_output(linear: nn.Linear, columns: Tensor, inputs: Tensor) -> Tensor:
    """What the inputs `columns` (bool mask) add to the output when they hold the constants `inputs`; shape `(out,)`."""
    with torch.no_grad():
        return (linear.weight[:, columns].double() @ inputs[columns].double()).to(linear.weight.dtype)
