"""Wider blocks for AMX: small ones do not fill its tiles, and may be multiplied faster with the zeros between them."""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.runtimes import timings
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.block_sparse_linear import BlockSparseLinear
from qalib.runtimes.cpu.instruction_sets import INT8
from qalib.utils.paths import CACHE

WIDE = {"amx_bf16": (32, 32), "amx_int8": (32, 64)}  # blocks that fill the tiles
TABLE = CACHE / "widening.json"
LEAST, TOKENS, DENSITY = 512, 256, 0.2  # least side of the matrix that is timed, and kept / all of its small blocks


def widened(weight: Tensor, block: Block, dtype: torch.dtype, instructions: str | None = None) -> Block:
    """Return the blocks to multiply a weight in: those that fill AMX's tiles, where that is faster here, or `block`.

    `instructions` are the best for `dtype` unless they are given.
    """
    name = "amx_int8" if instructions in INT8 else "amx_bf16"
    wide = WIDE[name]
    fits = not (weight.shape[0] % wide[0] or weight.shape[1] % wide[1])
    if not fits or block == wide or (instructions or instruction_sets.best(wide, dtype)) != name:
        return block
    kept, more = (blocks.mask(weight, each).float().mean() for each in (block, wide))
    return wide if more < pace(block, wide, dtype, instructions, timings.machine_key()) * kept else block


@functools.cache  # where the file cannot be written: once in a process
def pace(block: Block, wide: Block, dtype: torch.dtype, instructions: str | None, key: str) -> float:
    """Return seconds per weight in small blocks / seconds per weight in wide ones, timed once per machine."""

    def find() -> float:
        generator = torch.Generator().manual_seed(0)
        steps = (math.lcm(*sides) for sides in zip(block, wide, strict=True))
        height, width = (-(-LEAST // step) * step for step in steps)
        kept = torch.rand(*blocks.grid_shape((height, width), block), generator=generator) < DENSITY
        weight = torch.randn(height, width, generator=generator) * blocks.expand(kept, block)
        x, bias = torch.randn(TOKENS, width, generator=generator).to(dtype), torch.zeros(height)
        layers = {size: BlockSparseLinear(weight, bias, size, False, dtype, instructions) for size in (block, wide)}
        with torch.inference_mode():
            times = timings.shortest_seconds({size: functools.partial(layer, x) for size, layer in layers.items()})
        narrow, wider = (times[size] / blocks.mask(weight, size).float().mean().item() for size in (block, wide))
        return narrow / wider

    kind = f"{block[0]}x{block[1]} in {wide[0]}x{wide[1]}, {instructions or 'best'}, {dtype}"
    return timings.cached(TABLE, f"{key}, {kind}", find, _is_pace)


def _is_pace(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < math.inf
