"""Masks and products that students write: inputs, what the package makes of them, and the mistakes worth a word."""

import math
import tracemalloc
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.pruning import magnitude
from qalib.teaching.exercises.algorithm_checks import Algorithm, Case


def random(seed: int, *shape: int) -> Tensor:
    """Numbers from a bell curve, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- magnitude_mask


def _ranked(score=None, largest: bool = True):
    """A mask by another score of the blocks, shape `(R, C, height, width)` to `(R, C)`, or of the smallest."""
    score = score or (lambda tiles: tiles.square().mean((-1, -2)))

    def mask(weight: Tensor, keep_fraction: float, block: Block) -> Tensor:
        scores = score(blocks.split(weight, block))
        kept = torch.zeros(scores.numel(), dtype=torch.bool)
        kept[scores.flatten().topk(int(keep_fraction * scores.numel()), largest=largest).indices] = True
        return blocks.expand(kept.view_as(scores), block)

    return mask


def _count_of_blocks(answers: list[Tensor], references: list[Tensor], case: Case) -> str | None:
    (found,), (expected,) = answers, references
    size, everything = math.prod(case["block"]), expected.numel() // math.prod(case["block"])
    if found.shape != expected.shape or not ((found == 0) | (found == 1)).all():
        return None
    kept, asked = found.sum().item() / size, expected.sum().item() / size
    return f"it keeps {kept:g} of {everything} blocks, expected {asked:g}" if kept != asked else None


_right_mask = magnitude.magnitude_mask
MAGNITUDE = Algorithm(
    "for blocks of one size, the root mean square, its square and the sum of squares rank alike.",
    _right_mask,
    [
        {"weight": random(seed, *shape) ** 3, "keep_fraction": fraction, "block": block}
        for seed, (shape, fraction, block) in enumerate([
            ((8, 8), 0.5, (2, 2)), ((8, 12), 0.3, (4, 3)), ((6, 4), 0.25, (1, 1)), ((32, 16), 0.7, (4, 8)),
            ((16, 16), 0.9, (4, 2)), ((4, 8), 0.0, (2, 2)), ((4, 8), 1.0, (2, 2)), ((12, 12), 0.4, (12, 1)),
            ((24, 24), 0.5, (3, 3)),
        ])
    ],
    {
        "that ranks by the mean absolute value: square, and then take the mean":
            _ranked(lambda t: t.abs().mean((-1, -2))),
        "signs cancel in a mean: square first": _ranked(lambda t: t.mean((-1, -2))),
        "that ranks by the largest weight: one outlier is no block": _ranked(lambda t: t.abs().amax((-1, -2))),
        "that keeps the smallest": _ranked(largest=False),
        "that marks what is pruned": lambda *case: ~_right_mask(*case),
        "that is the masked weight, not the mask": lambda weight, *case: weight * _right_mask(weight, *case),
        "that has one truth value a block; `blocks.expand` makes it one a weight":
            lambda weight, fraction, block: _right_mask(weight, fraction, block)[:: block[0], :: block[1]],
        "that chooses single weights: a block stays or goes whole":
            lambda weight, fraction, block: _right_mask(weight, fraction, (1, 1)),
        "that keeps what is above zero: size counts, not the sign": lambda weight, fraction, block: weight > 0,
        "that keeps every nonzero weight, whatever the fraction": lambda weight, fraction, block: weight != 0,
    },
    remark=_count_of_blocks,
)  # fmt: skip


# ---- block_product


def _blocks_of(seed: int, grid: tuple[int, int], block: Block, n: int, share: float) -> Case:
    kept = torch.rand(grid, generator=torch.Generator().manual_seed(seed)).numpy() < share
    values = random(seed, int(kept.sum()), *block).numpy()
    return {"values": values, "kept": kept, "x": random(seed + 100, grid[1] * block[1], n).numpy()}


def _dense_product(values: np.ndarray, kept: np.ndarray, x: np.ndarray) -> np.ndarray:
    """With the package's own way to unpack blocks, zeros and all."""
    shape = len(kept) * values.shape[1], len(x)
    bitmap = torch.from_numpy(np.packbits(kept))
    return blocks.unpack(torch.from_numpy(values), bitmap, shape).numpy() @ x


def _last_block_only(values: np.ndarray, kept: np.ndarray, x: np.ndarray) -> np.ndarray:
    (height, width), out = values.shape[1:], np.zeros((len(kept) * values.shape[1], x.shape[1]), x.dtype)
    for value, (row, column) in zip(values, np.argwhere(kept), strict=True):
        out[row * height : (row + 1) * height] = value @ x[column * width : (column + 1) * width]
    return out


def _column_by_column(values: np.ndarray, kept: np.ndarray, x: np.ndarray) -> np.ndarray:
    order = np.argwhere(kept.T)
    ranks = np.lexsort((order[:, 0], order[:, 1]))
    return _dense_product(values[ranks], kept, x)


def _writes_zeros(function: Any) -> str | None:
    """A bound on memory: less than a byte for each weight that is not stored."""
    case = _blocks_of(0, (512, 512), (4, 4), 2, 1e-4)
    weights = case["kept"].size * 16
    tracemalloc.start()
    try:
        function(*case.values())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak < weights:
        return None
    stored = case["values"].nbytes / 1e6
    return f"the product is right, but takes {peak / 1e6:.0f} MB for {stored:.3f} MB of blocks: it writes the zeros out"


BLOCK_PRODUCT = Algorithm(
    "each kept block is multiplied once, and the zeros never.",
    _dense_product,
    [
        _blocks_of(seed, grid, block, n, share)
        for seed, (grid, block, n, share) in enumerate([
            ((2, 2), (2, 2), 3, 0.8), ((3, 4), (4, 2), 1, 0.6), ((5, 2), (1, 3), 4, 0.7), ((4, 4), (8, 8), 2, 0.5),
            ((3, 3), (2, 2), 2, 0.0), ((3, 3), (2, 2), 2, 1.1), ((1, 6), (4, 4), 5, 0.5),
        ])
    ],
    {
        "a row of blocks may have several: add, do not overwrite": _last_block_only,
        "blocks are stored row by row, not column by column": _column_by_column,
        "nothing is multiplied": lambda values, kept, x: np.zeros((len(kept) * values.shape[1], x.shape[1])),
    },
    limit=_writes_zeros,
)  # fmt: skip
