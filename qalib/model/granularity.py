"""Granularity: in which units weights were pruned, told from the positions of the zeros, not from a config.

A unit (a block, a row, a column) explains a zero if the zero lies in a unit of that shape that is all zero. The
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
from transformers import BertForQuestionAnswering

from qalib.model import bert
from qalib.model.blocks import Block

STRAY_SHARE = 1e-5  # share of weights that may be zero anywhere, as float16 rounds the smallest ones to zero
NONE, ROWS, COLUMNS, BOTH, BLOCKS, SINGLE, MATRICES = (
    "nothing pruned", "whole rows", "whole columns", "whole rows and columns", "blocks", "single weights",
    "whole matrices",
)  # fmt: skip


@dataclass(frozen=True)
class Granularity:
    """The unit of pruning: the name of its shape, and its rows and columns (None if it has no size)."""

    shape: str
    unit: Block | None = None

    def __str__(self) -> str:
        if self.shape == BLOCKS and self.unit:
            return "blocks of {}x{}".format(*self.unit)
        together = {ROWS: self.unit and self.unit[0], COLUMNS: self.unit and self.unit[1]}.get(self.shape) or 1
        return self.shape if together == 1 else f"{self.shape}, {together} at a time"


def detect(weights: list[Tensor]) -> Granularity:
    """The common granularity of several matrices of one shape, `(rows, columns)`."""
    zeros = [weight == 0 for weight in weights]
    total, (rows, columns) = sum(int(zero.count_nonzero()) for zero in zeros), weights[0].shape
    if total <= STRAY_SHARE * sum(zero.numel() for zero in zeros):
        return Granularity(NONE)
    partly = [zero for zero in zeros if not zero.all()]
    if not any(zero.any() for zero in partly):
        return Granularity(MATRICES)
    height, width = (_longest(partly, axis, size) for axis, size in enumerate((rows, columns)))
    if not explains(partly, (height, width)):  # each holds by itself, but not both together
        height = width = 1
    if width == columns and height < rows:
        return Granularity(ROWS, (height, columns))
    if height == rows and width < columns:
        return Granularity(COLUMNS, (rows, width))
    if height * width > 1:
        return Granularity(BLOCKS, (height, width))
    in_lines = sum(int((zero & (zero.all(1)[:, None] | zero.all(0))).count_nonzero()) for zero in partly)
    return Granularity(BOTH if _nearly_all(in_lines, partly) else SINGLE)


def explains(zeros: list[Tensor], unit: Block) -> bool:
    """Do the zeros (bool masks), apart from strays, lie in units that are all zero?"""
    inside = sum(int(_all(_all(zero, 0, unit[0]), 1, unit[1]).count_nonzero()) for zero in zeros) * unit[0] * unit[1]
    return _nearly_all(inside, zeros)


def _nearly_all(count: int, zeros: list[Tensor]) -> bool:
    return sum(int(zero.count_nonzero()) for zero in zeros) - count <= STRAY_SHARE * sum(zero.numel() for zero in zeros)


def _all(mask: Tensor, axis: int, size: int) -> Tensor:
    return mask.view(torch.uint8).unflatten(axis, (-1, size)).amin(axis + 1).bool()  # `all` takes ten times as long


def _longest(zeros: list[Tensor], axis: int, size: int) -> int:
    """The length of the longest runs of rows (axis 0) or columns (1), aligned to that length, with zeros in the same
    places.

    It grows by one prime factor of the size at a time: where runs of 2 and of 3 agree, so do runs of 6.
    """
    from sympy import primefactors  # a dependency of torch, slow to import

    found, grown = 1, zeros
    for factor in primefactors(size):
        while size // found % factor == 0:
            longer = [_all(mask, axis, factor) for mask in grown]
            if not _nearly_all(sum(int(mask.count_nonzero()) for mask in longer) * found * factor, zeros):
                break
            found, grown = found * factor, longer
    return found


def detect_by_kind(model: BertForQuestionAnswering) -> dict[str, Granularity]:
    """The granularity of every kind of matrix, by the keys of `bert.LINEAR_LAYERS`."""
    kinds: dict[str, list[Tensor]] = {}
    for matrix in bert.matrices(model):
        kinds.setdefault(matrix.kind, []).append(matrix.linear.weight.detach())
    return {kind: detect(weights) for kind, weights in kinds.items()}


def describe(found: Mapping[str, Granularity | str]) -> str:
    """In words, to end a sentence: `query, key, value: blocks of 32x32; FFN in: whole rows`, or just what all share."""
    kinds: dict[str, list[str]] = {}
    for kind, granularity in found.items():
        kinds.setdefault(str(granularity), []).append(kind)
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{', '.join(names)}: {shape}" for shape, names in kinds.items())
