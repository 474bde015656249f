"""Restoring: tensors that were cut smaller brought back to full size, with zeros where something was cut out.

What was cut is told by `pruned_heads` or by the shapes. A file whose shapes can be read in two ways is refused, as one
of them would give wrong answers.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig

from qalib.model import bert
from qalib.utils import machine
from qalib.utils.errors import InputError

Heads = dict[int, list[int]]
# How much wider than the weights show a model may have been before it was pruned, in widths of its encoder.
WIDEST_HIDDEN, WIDEST_FFN = 2, 8
QKV = ("query", "key", "value")
BIAS = "bert.encoder.relative_attention_bias.weight"  # a column for each head


def require_plausible_sizes(
    state: dict[str, Tensor], config: BertConfig, config_key: Callable[[str], str], width: int, path: Path
) -> None:
    """Raise InputError if restoring the config's sizes would add far more zeros than pruning leaves out.

    `config_key` maps BERT's names to those in the file; `width` is the encoder's.
    """
    rows = [len(value) for key, value in state.items() if key.endswith("intermediate.dense.bias") and value.ndim]
    most = {"hidden_size": WIDEST_HIDDEN * width, "intermediate_size": max(WIDEST_FFN * width, *rows, 1)}
    for name, largest in most.items():
        if (size := getattr(config, name)) > largest:
            raise InputError(f"{path}: {config_key(name)} is {size:,}, expected at most {largest:,} with these weights")
    layers = {key.split(".")[3] for key in state if key.startswith("bert.encoder.layer.")}
    needed = 4 * len(layers) * (4 * config.hidden_size + 2 * config.intermediate_size) * width
    if needed > (memory := machine.memory_limit()):
        raise InputError(
            f"{path}: at full size the matrices take {needed / 1e9:,.0f} GB, more than the memory of "
            f"{memory / 1e9:,.0f} GB that this process may use"
        )


def full_size(
    state: dict[str, Tensor], heads: Heads, config: BertConfig, width: int, path: Path
) -> tuple[dict[str, Tensor], Heads]:
    """Tensors by BERT's names at full size, and the heads that are not in the file; `width` is the encoder's.

    Heads listed in `heads` are restored in their places; where only the shapes show that heads are missing, they are
    taken to be the last ones of the layer, as order does not matter. The same goes for FFN neurons. Heads smaller than
    the config's are padded with zeros and their queries scaled, so that the attention scores stay the same.
    Raises InputError if the shapes do not fit the heads, or do not tell which heads are missing; with a bias by
    relative position order matters, and heads that were cut out must be listed.
    """
    size = config.hidden_size // config.num_attention_heads
    state, listed = dict(state), dict(heads)
    rows = {
        layer: state[key].shape[0]
        for layer in range(config.num_hidden_layers)
        if (key := _name(layer, "query") + ".weight") in state and state[key].ndim == 2
    }
    cut = {layer: count for layer, count in rows.items() if count != size * config.num_attention_heads}
    counts = {} if heads else _heads_left(cut, size, config.num_attention_heads, path)  # `build_model` reports the rest
    for layer in range(config.num_hidden_layers):
        if layer in counts:
            count, own = counts[layer]
            if own == size and BIAS in state:
                raise InputError(
                    f"{path}: layer {layer} has {count} heads of {config.num_attention_heads}, each with its own bias "
                    "by relative position, and the shapes do not tell which; list those cut out as pruned_heads"
                )
            if own == size:
                listed[layer] = list(range(count, config.num_attention_heads))
            else:
                _widen_heads(state, layer, config.num_attention_heads, size, path)
        if layer in listed:
            left = [h for h in range(config.num_attention_heads) if h not in listed[layer]]
            _put_heads(state, layer, left, size, width, config, path, by_shape=layer in counts)
        _fill_neurons(state, layer, config.intermediate_size, width)
    return state, listed


def _name(layer: int, kind: str) -> str:
    return f"bert.encoder.layer.{layer}.{bert.LINEAR_LAYERS[kind]}"


def _heads_left(cut: dict[int, int], size: int, heads: int, path: Path) -> dict[int, tuple[int, int]]:
    """For layers with fewer rows than the config says: how many heads they have, and of what size."""
    whole = {layer: rows for layer, rows in cut.items() if rows % size == 0 and rows < heads * size}
    smaller = {layer: rows for layer, rows in cut.items() if rows and rows % size and rows % heads == 0}
    for layer, rows in cut.items():
        if layer not in whole and layer not in smaller or rows > heads * size:
            raise InputError(
                f"{path}: layer {layer} has {rows} query rows, which are neither heads of {size} nor {heads} heads"
            )
    # Rows that could be fewer heads, or all heads but smaller: other layers decide, if they allow only one reading.
    twofold = {layer: rows for layer, rows in whole.items() if rows and rows % heads == 0}
    if twofold and (smaller or twofold == {layer: rows for layer, rows in whole.items() if rows}):
        layer, rows = next(iter(twofold.items()))
        raise InputError(
            f"{path}: {rows} query rows in layer {layer} are {rows // size} heads of {size} or {heads} of "
            f"{rows // heads}, and the shapes do not tell which; list the heads that were cut out as pruned_heads"
        )
    return {layer: (rows // size, size) for layer, rows in whole.items()} | {
        layer: (heads, rows // heads) for layer, rows in smaller.items()
    }


def _widen_heads(state: dict[str, Tensor], layer: int, heads: int, size: int, path: Path) -> None:
    """Pad each head to `size` with zeros; queries are scaled to make up for the larger divisor of the scores."""
    own = {
        kind: state[f"{_name(layer, kind)}.weight"].shape[0] for kind in QKV if f"{_name(layer, kind)}.weight" in state
    }
    if own.get("query") != own.get("key") or any(rows % heads or rows > heads * size for rows in own.values()):
        raise InputError(f"{path}: layer {layer} has {own} rows, which are not {heads} heads of equal size")
    for kind, rows in own.items():
        for part in ("weight", "bias"):
            if (key := f"{_name(layer, kind)}.{part}") in state and state[key].shape[0] == rows:
                value = state[key].float()
                if kind == "query":
                    value = value * math.sqrt(size * heads / rows)
                wide = value.new_zeros(heads, size, *value.shape[1:])
                wide[:, : rows // heads] = value.view(heads, rows // heads, *value.shape[1:])
                state[key] = wide.flatten(0, 1)
    key = f"{_name(layer, 'attention output')}.weight"
    if key in state and state[key].ndim == 2 and state[key].shape[1] == own.get("value"):
        value = state[key]
        wide = value.new_zeros(len(value), heads, size)
        wide[:, :, : value.shape[1] // heads] = value.view(len(value), heads, -1)
        state[key] = wide.flatten(1)


def _put_heads(
    state: dict[str, Tensor], layer: int, left: list[int], size: int, width: int, config: BertConfig, path: Path,
    by_shape: bool,
) -> None:  # fmt: skip
    """Put the heads that are left back in their places, with zeros in between."""
    rows = bert.head_rows(left, size)
    total = size * config.num_attention_heads
    for kind in (*QKV, "attention output"):
        name, across = _name(layer, kind), kind == "attention output"
        shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (width, len(rows)) if across else (len(rows), width)}
        if not across:
            shapes[f"{name}.bias"] = (len(rows),)
        for key, shape in shapes.items():
            if key not in state:
                continue  # `build_model` reports it
            full_shape = (width, total) if across else (total, *shape[1:])
            if state[key].shape != shape:
                if not by_shape and state[key].shape == full_shape:
                    raise InputError(
                        f"{path}: pruned_heads lists heads of layer {layer} that were cut out, but {key} has all "
                        f"{config.num_attention_heads}: it is at full size; remove pruned_heads"
                    )
                source = "the shape of the queries" if by_shape else "pruned_heads"
                raise InputError(
                    f"{path}: {source} leaves layer {layer} {len(left)} heads of {size}, which does not fit "
                    f"{key} of shape {tuple(state[key].shape)}"
                )
            full = state[key].new_zeros(full_shape)
            state[key] = full.index_copy_(int(across), rows, state[key])


def _fill_neurons(state: dict[str, Tensor], layer: int, neurons: int, width: int) -> None:
    """Pad FFN matrices that agree on fewer neurons with zeros; if they disagree, `build_model` reports it."""
    names = [f"{_name(layer, 'FFN in')}.weight", f"{_name(layer, 'FFN in')}.bias", f"{_name(layer, 'FFN out')}.weight"]
    if not all(name in state for name in names):
        return
    inner, bias, outer = (state[name] for name in names)
    count = bias.shape[0] if bias.ndim == 1 else -1
    if 0 <= count < neurons and inner.shape == (count, width) and outer.shape == (width, count):
        state[names[0]] = torch.cat([inner, inner.new_zeros(neurons - count, width)])
        state[names[1]] = torch.cat([bias, bias.new_zeros(neurons - count)])
        state[names[2]] = torch.cat([outer, outer.new_zeros(width, neurons - count)], 1)
