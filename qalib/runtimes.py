"""Runtimes: functions from a checkpoint to a torch module with the same logits, at another speed.

A runtime joins by a decorator:

    @runtime("name", "what it does, in a few words")
    def name(checkpoint: Checkpoint) -> nn.Module: ...

The module is called as BertForQuestionAnswering is and returns `start_logits` and `end_logits`, shape
`(batch, length)`.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertLayer

from qalib import encoder
from qalib.blocks import Block
from qalib.checkpoint import Checkpoint
from qalib.errors import InputError


@dataclass(frozen=True)
class Runtime:
    """A named way to run a checkpoint."""

    name: str
    description: str
    build: Callable[[Checkpoint], nn.Module]


REGISTRY: dict[str, Runtime] = {}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def runtime(name: str, description: str) -> Callable:
    """Register the decorated function under a name."""

    def register(build: Callable[[Checkpoint], nn.Module]) -> Callable[[Checkpoint], nn.Module]:
        REGISTRY[name] = Runtime(name, description, build)
        return build

    return register


def build(name: str, checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str = "fp32") -> nn.Module:
    """The checkpoint's module under the runtime `name`, on a device and in a type (fp32 or bf16), in eval mode.

    The checkpoint's own model is left as it is. Raises InputError for an unknown name or type.
    """
    if name not in REGISTRY:
        raise InputError(f"no runtime {name!r}; there are {', '.join(REGISTRY)}")
    if dtype not in DTYPES:
        raise InputError(f"no type {dtype!r}; there are {', '.join(DTYPES)}")
    return REGISTRY[name].build(checkpoint).to(device=device, dtype=DTYPES[dtype]).eval()


@runtime("dense", "every weight multiplied, zeros included")
def dense(checkpoint: Checkpoint) -> nn.Module:
    """A copy of the model as it is."""
    return copy.deepcopy(checkpoint.model)


@runtime("compact", "heads and FFN neurons that do not change the output cut out, the rest run dense")
def compact(checkpoint: Checkpoint) -> nn.Module:
    """The model cut to size: same logits, smaller dense matrices (as in arXiv 2109.04838, section 4)."""
    return cut(copy.deepcopy(checkpoint.model))


def cut(model: BertForQuestionAnswering, block: Block | None = None) -> BertForQuestionAnswering:
    """The model itself, with its removable heads and FFN neurons cut out.

    With `block` only as many go as leave matrices that are not empty and that the block divides.
    """
    for layer in encoder.layers(model):
        heads, neurons = _removed(layer, model.config.num_attention_heads, block)
        _cut_heads(layer, heads)
        _cut_neurons(layer, neurons)
    return model


@torch.no_grad()
def grow(
    small: BertForQuestionAnswering, model: BertForQuestionAnswering, block: Block | None = None
) -> BertForQuestionAnswering:
    """The inverse of `cut`: `model`, not cut yet, takes the weights of `small`, and zeros where it was cut."""
    weights = small.state_dict()
    for number, layer in enumerate(encoder.layers(model)):
        heads, neurons = _removed(layer, model.config.num_attention_heads, block)
        rows, neurons = ~heads.repeat_interleave(layer.attention.self.attention_head_size), ~neurons
        everything = torch.ones(model.config.hidden_size, dtype=torch.bool)
        for kind, path in encoder.KINDS.items():
            outputs = {"attention output": everything, "FFN in": neurons, "FFN out": everything}.get(kind, rows)
            inputs = {"attention output": rows, "FFN out": neurons}.get(kind, everything)
            name = f"bert.encoder.layer.{number}.{path}"
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            weights[f"{name}.weight"] = weight.new_zeros(len(outputs), len(inputs))
            weights[f"{name}.weight"][outputs.nonzero(), inputs.nonzero().T] = weight
            weights[f"{name}.bias"] = bias.new_zeros(len(outputs))
            weights[f"{name}.bias"][outputs] = bias
    model.load_state_dict(weights)
    return model


def _removed(layer: BertLayer, heads: int, block: Block | None) -> tuple[Tensor, Tensor]:
    removed, neurons = encoder.heads_removable(layer, heads), encoder.neurons_removable(layer)
    if block:
        unit = math.lcm(*block)
        _spare(removed, unit // math.gcd(unit, layer.attention.self.attention_head_size))
        _spare(neurons, unit)
    return removed, neurons


def _spare(removed: Tensor, unit: int) -> None:
    """Remove fewer, so that what is left is a multiple of `unit`, and not nothing."""
    left = int((~removed).sum())
    removed[removed.nonzero()[: max(left, 1) + -max(left, 1) % unit - left]] = False


def _cut_heads(layer: BertLayer, removed: Tensor) -> None:
    attention, output = layer.attention.self, layer.attention.output
    rows = removed.repeat_interleave(attention.attention_head_size)
    # A head with zero value weights gives its value bias at every position; the output bias takes it over.
    output.dense.bias.data += encoder.constant_output(output.dense, rows, attention.value.bias)
    for name in ("query", "key", "value"):
        setattr(attention, name, _linear(getattr(attention, name), rows=~rows))
    output.dense = _linear(output.dense, columns=~rows)
    attention.num_attention_heads = int((~removed).sum())
    attention.all_head_size = attention.num_attention_heads * attention.attention_head_size
    if removed.all():
        layer.attention.self = NoHeads()


def _cut_neurons(layer: BertLayer, removed: Tensor) -> None:
    inner, outer = layer.intermediate, layer.output
    with torch.no_grad():
        constant = inner.intermediate_act_fn(inner.dense.bias)
    outer.dense.bias.data += encoder.constant_output(outer.dense, removed, constant)
    inner.dense = _linear(inner.dense, rows=~removed)
    outer.dense = _linear(outer.dense, columns=~removed)


def _linear(linear: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    """The linear layer with the chosen (bool mask) outputs or inputs only."""
    weight, bias = linear.weight.data, linear.bias.data
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    small = nn.Linear(1, 1, device="meta")  # nn.Linear warns when it has to initialise an empty weight
    small.weight, small.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias.clone())
    small.out_features, small.in_features = weight.shape
    return small


class NoHeads(nn.Module):
    """Self-attention of a layer that has no head left: nothing, shape `(batch, length, 0)`."""

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> tuple[Tensor, None]:
        """The empty context, and no attention weights."""
        return hidden_states[..., :0], None
