"""Structures: which weights of a BERT are kept, read block by block from a file or drawn to fit published figures.

A structure is one mask per encoder matrix, in blocks or, where whole heads and neurons were pruned, in single weights
(blocks of 1x1).
"""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor
from transformers import BertConfig

from qalib.model import bert, blocks, settings
from qalib.utils.errors import InputError
from qalib.utils.files import read_json

Masks = dict[tuple[int, str], Tensor]  # by layer and kind: bool, shape (rows/height, columns/width)
Heads = dict[int, list[int]]
Key = TypeVar("Key", bound=Hashable)


def read_masks(path: Path | str, config: BertConfig) -> tuple[Masks, Heads, blocks.Block, str]:
    """Kept blocks, pruned heads, block size and model from a mask file. Raises InputError naming any misfit."""
    value = read_json(path)
    if not isinstance(value, dict) or not {"block_size", "pruned_heads", "kept_blocks"} <= value.keys():
        raise InputError(f"{path}: expected an object with block_size, pruned_heads and kept_blocks")
    block = settings.block_size(value, config, config.hidden_size, Path(path))
    heads = settings.pruned_heads(value, config, Path(path))
    kept, grids = {}, value["kept_blocks"]
    if not isinstance(grids, dict):
        raise InputError(f"{path}: kept_blocks is {type(grids).__name__}, expected an object {{matrix: rows}}")
    for layer in range(config.num_hidden_layers):
        for kind, suffix in bert.LINEAR_LAYERS.items():
            name = f"bert.encoder.layer.{layer}.{suffix}.weight"
            rows, columns = bert.matrix_shape(kind, config)
            grid = grids.get(name)
            size = (rows // block[0], columns // block[1])
            if not _is_grid(grid, size):
                raise InputError(f"{path}: kept_blocks of {name} is not {size[0]} rows of {size[1]} times 0 or 1")
            kept[layer, kind] = torch.tensor([[bit == "1" for bit in row] for row in grid])
    if len(grids) > len(kept):
        raise InputError(
            f"{path}: kept_blocks names {len(grids)} matrices, but a BERT-base has only {len(kept)} that are pruned"
        )
    return kept, heads, block, str(value.get("model", f"the model of {Path(path).name}"))


def _is_grid(grid: Any, size: tuple[int, int]) -> TypeGuard[list[str]]:
    return (
        isinstance(grid, list)
        and len(grid) == size[0]
        and all(isinstance(row, str) and len(row) == size[1] and set(row) <= {"0", "1"} for row in grid)
    )


def place_blocks(
    like: list[dict[str, int]],
    heads: Heads,
    density: float,
    block: blocks.Block,
    config: BertConfig,
    generator: torch.Generator,
) -> Masks:
    """Random masks that keep `density` of all blocks, none of them in the removed `heads`.

    Each matrix gets blocks in proportion to `like` (kept blocks by layer and kind), as far as there is room, and at
    least one in each part of a remaining head. Raises InputError if there is not enough room.
    """
    allowed = {
        (layer, kind): _allowed(kind, heads.get(layer, []), block, config)
        for layer in range(config.num_hidden_layers)
        for kind in bert.LINEAR_LAYERS
    }
    total = sum(places.numel() for places in allowed.values())
    capacity = {key: int(places.sum()) for key, places in allowed.items()}
    wanted = round(density * total)
    _check(density, wanted, 0, sum(capacity.values()), total)
    counts = apportion(wanted, {(layer, kind): like[layer][kind] for layer, kind in capacity}, capacity)
    return {key: _choose(allowed[key], counts[key], key[1], block, config, generator) for key in allowed}


def apportion(total: int, like: Mapping[Key, int], capacity: Mapping[Key, int]) -> dict[Key, int]:
    """`total` divided in proportion to `like`, up to each `capacity`; rounding remainders go to the first keys."""
    counts = dict.fromkeys(capacity, 0)
    while missing := total - sum(counts.values()):
        open_places = {key: like[key] for key in capacity if counts[key] < capacity[key]}
        share = missing / sum(open_places.values())
        for key, weight in open_places.items():
            more = max(1, int(share * weight))
            counts[key] += min(more, capacity[key] - counts[key], total - sum(counts.values()))
    return counts


def _check(density: float, wanted: int, least: int, most: int, total: int) -> None:
    if not least <= wanted <= most:
        low = f"{least / total:.4f}" if least else "0"
        raise InputError(
            f"density {density}: must be between {low} and {most / total:.4f}, which the heads left can hold"
        )


def neurons_for_density(density: float, heads_left: list[int], like: list[int], config: BertConfig) -> list[int]:
    """FFN neurons per layer, in proportion to `like`, so that with the whole heads `density` of all weights is kept.

    Raises InputError if the heads left are more than that, or even all neurons are too few.
    """
    layers, hidden, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    total = layers * sum(math.prod(bert.matrix_shape(kind, config)) for kind in bert.LINEAR_LAYERS)
    in_heads = sum(heads_left) * 4 * hidden * (hidden // config.num_attention_heads)
    wanted = round(density * total)
    _check(density, wanted, in_heads, in_heads + layers * inner * 2 * hidden, total)
    capacity = dict.fromkeys(range(layers), inner)
    counts = apportion(round((wanted - in_heads) / (2 * hidden)), dict(enumerate(like)), capacity)
    return [counts[layer] for layer in range(layers)]


def heads_and_neurons(
    heads_left: list[int], neurons_left: list[int], config: BertConfig, generator: torch.Generator
) -> tuple[Masks, Heads]:
    """Masks of single weights, and pruned heads: as many heads and FFN neurons per layer as given, drawn at random."""
    kept, gone = {}, {}
    for layer, (heads, neurons) in enumerate(zip(heads_left, neurons_left, strict=True)):
        order = torch.randperm(config.num_attention_heads, generator=generator)
        gone[layer] = sorted(order[heads:].tolist())
        alive = torch.zeros(config.intermediate_size, dtype=torch.bool)
        alive[torch.randperm(len(alive), generator=generator)[:neurons]] = True
        for kind in bert.LINEAR_LAYERS:
            mask = _allowed(kind, gone[layer], (1, 1), config)
            if kind.startswith("FFN"):
                mask = alive[:, None] & mask if kind == "FFN in" else alive & mask
            kept[layer, kind] = mask
    return kept, {layer: heads for layer, heads in gone.items() if heads}


def _allowed(kind: str, removed: list[int], block: blocks.Block, config: BertConfig) -> Tensor:
    weight = torch.ones(bert.matrix_shape(kind, config))
    size = config.hidden_size // config.num_attention_heads
    for head in removed:
        if kind in ("query", "key", "value"):
            weight[head * size : (head + 1) * size] = 0
        elif kind == "attention output":
            weight[:, head * size : (head + 1) * size] = 0
    return blocks.mask(weight, block)


def _choose(
    allowed: Tensor, count: int, kind: str, block: blocks.Block, config: BertConfig, generator: torch.Generator
) -> Tensor:
    """`count` of the allowed places at random; in query, key and value, first one in each head that is left."""
    order = torch.rand(allowed.shape, generator=generator)
    if kind in ("query", "key", "value"):
        rows = bert.split_heads(order.masked_fill(~allowed, 2.0), config.num_attention_heads)  # a view
        flat = rows.reshape(config.num_attention_heads, -1)
        first = flat.argmin(1)
        alive = flat.gather(1, first[:, None])[:, 0] < 2
        flat[alive, first[alive]] = -1
        order = flat.reshape(allowed.shape)
    order = order.masked_fill(~allowed, 3.0)
    chosen = torch.zeros(allowed.numel(), dtype=torch.bool)
    chosen[order.flatten().argsort()[:count]] = True
    return chosen.view(allowed.shape)
