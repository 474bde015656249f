"""Compaction: heads and FFN neurons that do not change the output are cut out of a model, and put back as zeros.

One mechanism for any BERT (arXiv 2109.04838, section 4): what is left are smaller dense matrices.
"""

import copy
import math

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertLayer

from qalib.model import bert, blocks
from qalib.model.blocks import Block
from qalib.model.checkpoint import Checkpoint
from qalib.model.relative_positions import RelativeSelfAttention
from qalib.runtimes.registry import runtime


def shrink(
    model: BertForQuestionAnswering, block: Block | None = None, multiple_of: int = 1
) -> BertForQuestionAnswering:
    """The model itself, with its removable heads and FFN neurons cut out.

    With `block` what is left can be divided into blocks, and is not nothing. Neurons that were pruned one by one stand
    in every block; without them those left fill fewer. `multiple_of` so many neurons are left: a GPU's matrix units
    take 8 numbers of float32, or 16 of bfloat16, at a time.
    """
    for layer in bert.layers(model):
        heads, neurons = _removed(layer, model.config.num_attention_heads, block, multiple_of)
        _cut_heads(layer, heads)
        _cut_neurons(layer, neurons)
    return model


def build(
    model: BertForQuestionAnswering, device: torch.device, dtype: torch.dtype, block: Block | None = None
) -> BertForQuestionAnswering:
    """A cut copy of the model, on a device and in a type; neurons left suit the matrix units of a GPU."""
    return bert.to(shrink(copy.deepcopy(model), block, alignment(device, dtype)), device, dtype)


def alignment(device: torch.device, dtype: torch.dtype) -> int:
    """How many neurons the matrix units of a device take at a time; 1 for a CPU."""
    return 1 if device.type == "cpu" else 16 if dtype == torch.bfloat16 else 8


@torch.no_grad()
def expand(
    small: BertForQuestionAnswering, model: BertForQuestionAnswering, block: Block | None = None
) -> BertForQuestionAnswering:
    """The inverse of `shrink`: `model`, of full size, takes the weights of `small`, and zeros where it was cut."""
    weights = small.state_dict()
    for number, layer in enumerate(bert.layers(model)):
        heads, neurons = _removed(layer, model.config.num_attention_heads, block)
        rows, neurons = ~heads.repeat_interleave(layer.attention.self.attention_head_size), ~neurons
        everything = torch.ones(model.config.hidden_size, dtype=torch.bool)
        for kind, path in bert.LINEAR_LAYERS.items():
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


def _removed(layer: BertLayer, heads: int, block: Block | None, multiple_of: int = 1) -> tuple[Tensor, Tensor]:
    removed, neurons = bert.heads_removable(layer, heads), bert.neurons_removable(layer)
    if not block:
        return removed, neurons if multiple_of == 1 else _all_but_a_rest(neurons, multiple_of)
    side = math.lcm(*block, multiple_of)
    units = side // math.gcd(side, layer.attention.self.attention_head_size)
    ways = _whole(neurons, side), _all_but_a_rest(neurons, side)
    return _whole(removed, units), min(ways, key=lambda way: _blocks_left(layer, way, block))


def _whole(removed: Tensor, unit: int) -> Tensor:
    """Of what may be removed the whole units, the first excepted where all would go."""
    units = removed.view(-1, unit).all(1)
    units[0] &= not units.all()
    return units.repeat_interleave(unit)


def _all_but_a_rest(removed: Tensor, unit: int) -> Tensor:
    """All that may be removed but for the first few, so that what is left are whole units, and not nothing."""
    left = int((~removed).sum())
    rest = -left % unit if left else unit
    removed = removed.clone()
    removed[removed.nonzero()[:rest, 0]] = False
    return removed


def _blocks_left(layer: BertLayer, removed: Tensor, block: Block) -> int:
    """Blocks of both FFN matrices that are not zero without some neurons."""
    inner, outer = layer.intermediate.dense.weight, layer.output.dense.weight
    return sum(int(blocks.mask(weight, block).sum()) for weight in (inner[~removed], outer[:, ~removed]))


def _cut_heads(layer: BertLayer, removed: Tensor) -> None:
    attention, output = layer.attention.self, layer.attention.output
    rows = removed.repeat_interleave(attention.attention_head_size)
    # A head with zero value weights gives its value bias at every position; the output bias takes it over.
    output.dense.bias.data += bert.constant_output(output.dense, rows, attention.value.bias)
    for name in ("query", "key", "value"):
        setattr(attention, name, _linear(getattr(attention, name), rows=~rows))
    output.dense = _linear(output.dense, columns=~rows)
    attention.num_attention_heads = int((~removed).sum())
    attention.all_head_size = attention.num_attention_heads * attention.attention_head_size
    if isinstance(attention, RelativeSelfAttention):
        attention.heads = (~removed).nonzero()[:, 0]
    if removed.all():
        layer.attention.register_module("self", NoHeads())


def _cut_neurons(layer: BertLayer, removed: Tensor) -> None:
    inner, outer = layer.intermediate, layer.output
    with torch.no_grad():
        constant = inner.intermediate_act_fn(inner.dense.bias)
    outer.dense.bias.data += bert.constant_output(outer.dense, removed, constant)
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


@runtime("compact", "heads and FFN neurons that do not change the output cut out, the rest run dense")
def compact(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build the cut model."""
    return build(checkpoint.model, device, dtype)
