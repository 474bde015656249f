"""Blocks: a weight matrix seen as a grid of small tiles, each either kept whole or zero.

A weight of shape `(rows, columns)` in blocks of `(height, width)` is a grid of `rows/height` by
`columns/width` blocks. A block is *kept* if any of its weights is not zero.

>>> weight = torch.tensor([[1., 2., 0., 0.], [0., 3., 0., 0.]])
>>> mask(weight, (2, 2))
tensor([[ True, False]])
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Block = tuple[int, int]


def grid_shape(shape: tuple[int, int], block: Block) -> tuple[int, int]:
    """How many blocks a weight of a shape has, down and across. Raises ValueError if the block does not divide it."""
    (rows, columns), (height, width) = shape, block
    if height < 1 or width < 1 or rows % height or columns % width:
        raise ValueError(f"a {rows}x{columns} weight cannot be cut into {height}x{width} blocks")
    return rows // height, columns // width


def split(weight: Tensor, block: Block) -> Tensor:
    """View a weight, shape `(rows, columns)`, as its blocks, shape `(rows/height, columns/width, height, width)`.

    Raises ValueError if the block does not divide the weight.
    """
    height, width = weight.shape
    rows, columns = grid_shape((height, width), block)
    return weight.reshape(rows, block[0], columns, block[1]).transpose(1, 2)


def join(tiles: Tensor) -> Tensor:
    """The inverse of `split`: blocks of shape `(R, C, height, width)` to a weight `(R*height, C*width)`."""
    grid_rows, grid_columns, height, width = tiles.shape
    return tiles.transpose(1, 2).reshape(grid_rows * height, grid_columns * width)


def mask(weight: Tensor, block: Block) -> Tensor:
    """Which blocks are kept: bool, shape `(rows/height, columns/width)`."""
    return (split(weight, block) != 0).any(-1).any(-1)


def expand(kept: Tensor, block: Block) -> Tensor:
    """A block mask, shape `(R, C)`, as a mask of single weights, shape `(R*height, C*width)`."""
    return kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def pack(weight: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """The kept blocks and where they stood.

    Returns the block values, shape `(kept, height, width)`, in row-major order of the grid, and its `bitmap`.
    """
    kept = mask(weight, block)
    return split(weight, block)[kept].contiguous(), bitmap(kept)


def unpack(values: Tensor, kept: Tensor, shape: tuple[int, int]) -> Tensor:
    """The inverse of `pack`: a weight of `shape` with zeros where no block was kept; `kept` is the bitmap.

    Raises ValueError if bitmap, values and shape do not fit together.
    """
    if values.ndim != 3:
        raise ValueError(f"block values have shape {tuple(values.shape)}, not (kept, height, width)")
    block = (values.shape[1], values.shape[2])
    kept = from_bitmap(kept, grid_shape(shape, block), "blocks")
    if kept.sum() != len(values):
        raise ValueError(f"the bitmap marks {int(kept.sum())} blocks, but {len(values)} are stored")
    weight = values.new_zeros(shape)  # only after the checks: a file may claim a shape too large for memory
    split(weight, block)[kept] = values
    return weight


def remove_zero_lines(weight: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """The weight without its zero rows and columns, filled up with zeros to whole blocks; and which were not zero.

    The two masks are bool, shapes `(rows,)` and `(columns,)`. Neurons that were pruned one by one stand in every block:
    without them, those left fill fewer.
    """
    rows, columns = (weight != 0).any(1), (weight != 0).any(0)
    small = weight[rows][:, columns]
    return functional.pad(small, (0, -small.shape[1] % block[1], 0, -small.shape[0] % block[0])), rows, columns


def insert_zero_lines(small: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The inverse of `remove_zero_lines`."""
    weight = small.new_zeros(len(rows), len(columns))
    weight[rows.nonzero(), columns.nonzero().T] = small[: int(rows.sum()), : int(columns.sum())]
    return weight


def pack_tightly(weight: Tensor, block: Block) -> dict[str, Tensor]:
    """A weight as `blocks` and `bitmap`, of `pack`; without its zero rows and columns if fewer blocks are left so.

    Then `rows` and `columns` are the bitmaps of those that are not zero (see `remove_zero_lines`).
    """
    small, rows, columns = remove_zero_lines(weight, block)
    if mask(small, block).sum() == mask(weight, block).sum():
        return dict(zip(("blocks", "bitmap"), pack(weight, block), strict=True))
    packed = dict(zip(("blocks", "bitmap"), pack(small, block), strict=True))
    return packed | {"rows": bitmap(rows), "columns": bitmap(columns)}


def bitmap(kept: Tensor) -> Tensor:
    """A mask as uint8, eight entries per byte, the first in the highest bit, the last byte filled up with zeros."""
    return torch.from_numpy(np.packbits(kept.flatten().cpu().numpy()))


def from_bitmap(packed: Tensor, shape: tuple[int, ...], entries: str) -> Tensor:
    """The inverse of `bitmap`. Raises ValueError, which calls the entries so, if it is not one of that shape."""
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.numel() != -(-count // 8):
        raise ValueError(f"a bitmap of {packed.numel()} bytes does not describe {count} {entries}")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count)).bool().view(shape)
