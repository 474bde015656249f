"""Blocks: a weight matrix seen as a grid of small tiles, each either kept whole or zero.

A weight of shape `(rows, columns)` in blocks of `(height, width)` is a grid of `rows/height` by
`columns/width` blocks. A block is *kept* if any of its weights is not zero.

>>> weight = torch.tensor([[1., 2., 0., 0.], [0., 3., 0., 0.]])
>>> mask(weight, (2, 2))
tensor([[ True, False]])
"""

import numpy as np
import torch
from torch import Tensor

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
    rows, columns = grid_shape(tuple(weight.shape), block)
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

    Returns the block values, shape `(kept, height, width)`, in row-major order of the grid, and a bitmap of
    the grid (uint8, eight blocks per byte, first block in the highest bit, last byte padded with zeros).
    """
    kept = mask(weight, block)
    bitmap = torch.from_numpy(np.packbits(kept.flatten().cpu().numpy()))
    return split(weight, block)[kept].contiguous(), bitmap


def unpack(values: Tensor, bitmap: Tensor, shape: tuple[int, int]) -> Tensor:
    """The inverse of `pack`: a weight of `shape` with zeros where no block was kept.

    Raises ValueError if bitmap, values and shape do not fit together.
    """
    if values.ndim != 3:
        raise ValueError(f"block values have shape {tuple(values.shape)}, not (kept, height, width)")
    block = (values.shape[1], values.shape[2])
    grid = grid_shape(shape, block)
    count = grid[0] * grid[1]
    if bitmap.dtype != torch.uint8 or bitmap.numel() != -(-count // 8):
        raise ValueError(f"a bitmap of {bitmap.numel()} bytes does not describe {count} blocks")
    kept = torch.from_numpy(np.unpackbits(bitmap.numpy(), count=count)).bool().view(grid)
    if kept.sum() != len(values):
        raise ValueError(f"the bitmap marks {int(kept.sum())} blocks, but {len(values)} are stored")
    weight = values.new_zeros(shape)  # only after the checks: a file may claim a shape too large for memory
    split(weight, block)[kept] = values
    return weight
