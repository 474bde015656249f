"""Granularity: in which shape weights were pruned, told from where the zeros stand and not from what a config says.

A shape explains a zero if it lies in a unit of that shape (a block, a row, a column) that is zero throughout. The
granularity of a kind of matrix is the largest unit that explains its zeros in all layers.

>>> weight = torch.ones(4, 4)
>>> weight[1] = weight[2] = 0
>>> str(detect([weight]))
'whole rows'
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qalib.model import bert
from qalib.model.blocks import Block

STRAY = 1e-5  # of all weights: so many zeros may stand anywhere, as float16 rounds the smallest weights to zero
NONE, ROWS, COLUMNS, BOTH, BLOCKS, SINGLE, MATRICES = (
    "nothing pruned", "whole rows", "whole columns", "whole rows and columns", "blocks", "single weights",
    "whole matrices",
)  # fmt: skip


@dataclass(frozen=True)
class Granularity:
    """What was pruned at a time: the name of the shape, and its rows and columns (None where it has no size)."""

    shape: str
    unit: Block | None = None

    def __str__(self) -> str:
        if self.shape == BLOCKS:
            return "blocks of {}x{}".format(*self.unit)
        together = {ROWS: self.unit and self.unit[0], COLUMNS: self.unit and self.unit[1]}.get(self.shape) or 1
        return self.shape if together == 1 else f"{self.shape}, {together} at a time"


def detect(weights: list[Tensor]) -> Granularity:
    """The granularity of matrices of one shape, `(rows, columns)`, together."""
    zeros = [weight == 0 for weight in weights]
    total, (rows, columns) = sum(int(zero.sum()) for zero in zeros), weights[0].shape
    if total <= STRAY * sum(zero.numel() for zero in zeros):
        return Granularity(NONE)
    partly = [zero for zero in zeros if not zero.all()]
    if not any(zero.any() for zero in partly):
        return Granularity(MATRICES)
    height, width = (_longest(partly, axis, size) for axis, size in enumerate((rows, columns)))
    if not explains(partly, (height, width)):  # each for itself, but not both
        height = width = 1
    if width == columns and height < rows:
        return Granularity(ROWS, (height, columns))
    if height == rows and width < columns:
        return Granularity(COLUMNS, (rows, width))
    if height * width > 1:
        return Granularity(BLOCKS, (height, width))
    in_lines = sum(int((zero & (zero.all(1)[:, None] | zero.all(0))).sum()) for zero in partly)
    return Granularity(BOTH if _nearly_all(in_lines, partly) else SINGLE)


def explains(zeros: list[Tensor], unit: Block) -> bool:
    """Do the zeros (bool masks) lie, but for strays, in units that are zero throughout?"""
    inside = sum(int(_all(_all(zero, 0, unit[0]), 1, unit[1]).sum()) for zero in zeros) * unit[0] * unit[1]
    return _nearly_all(inside, zeros)


def _nearly_all(count: int, zeros: list[Tensor]) -> bool:
    return sum(int(zero.sum()) for zero in zeros) - count <= STRAY * sum(zero.numel() for zero in zeros)


def _all(mask: Tensor, axis: int, size: int) -> Tensor:
    return mask.unflatten(axis, (-1, size)).all(axis + 1)


def _longest(zeros: list[Tensor], axis: int, size: int) -> int:
    """The longest run of rows (axis 0) or columns (1), on a grid of its own length, that are zero in the same places.

    It is grown by one prime factor of the size after the other: where runs of 2 and of 3 agree, so do runs of 6.
    """
    found, factor, grown = 1, 2, zeros
    while found * factor <= size:
        if size // found % factor:
            factor += 1
            continue
        longer = [_all(mask, axis, factor) for mask in grown]
        if not _nearly_all(sum(int(mask.sum()) for mask in longer) * found * factor, zeros):
            factor += 1
            continue
        found, grown = found * factor, longer
    return found


def of_model(model: torch.nn.Module) -> dict[str, Granularity]:
    """The granularity of every kind of matrix, a key of `bert.LINEAR_LAYERS` each."""
    kinds: dict[str, list[Tensor]] = {}
    for matrix in bert.matrices(model):
        kinds.setdefault(matrix.kind, []).append(matrix.linear.weight.detach())
    return {kind: detect(weights) for kind, weights in kinds.items()}


def in_words(found: Mapping[str, Granularity | str]) -> str:
    """As a sentence's end: `query, key, value: blocks of 32x32; FFN in: whole rows`."""
    kinds: dict[str, list[str]] = {}
    for kind, granularity in found.items():
        kinds.setdefault(str(granularity), []).append(kind)
    return "; ".join(f"{', '.join(names)}: {shape}" for shape, names in kinds.items())
