"""Panels: linear layers on a GPU that multiply the kept blocks only, by the Triton kernel of `triton_kernel.py`.

Block rows are merged in groups that share block columns (`merge`). The weights of a group are packed dense in panels of
32 to 128 gathered inputs, zeros where one of its rows has no block: what is multiplied is the union of the group.
"""

import importlib.util
from dataclasses import astuple, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.utils.errors import InputError

HALF_SIZES = (  # tokens, outputs, depth, warps, stages
    (64, 32, 128, 4, 5), (64, 64, 64, 4, 5), (64, 64, 128, 4, 5), (64, 128, 64, 4, 5),
    (128, 32, 128, 4, 5), (128, 64, 64, 4, 5), (128, 64, 128, 4, 4), (128, 128, 64, 4, 4), (128, 128, 64, 4, 5),
    (128, 128, 64, 8, 5), (128, 128, 128, 8, 4), (128, 256, 64, 8, 4), (128, 256, 64, 8, 5),
    (256, 32, 64, 8, 5), (256, 64, 64, 8, 5), (256, 128, 64, 8, 4), (256, 128, 64, 8, 5),
)  # fmt: skip
SINGLE_SIZES = (
    (64, 32, 32, 4, 5), (64, 64, 32, 4, 5), (64, 64, 64, 8, 5), (64, 128, 32, 8, 5),
    (128, 32, 32, 4, 5), (128, 64, 32, 8, 5), (128, 128, 32, 8, 5), (256, 64, 32, 8, 5),
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """What a program of the kernel holds (tokens, merged block rows), the inputs of a panel, warps, pipeline stages."""

    tokens: int
    rows: int
    depth: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return "x".join(map(str, astuple(self)))


def unavailable_reason() -> str | None:
    """Why Triton cannot be used here, or None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install 'qalib[gpu]'"
    return None


def check(block: Block) -> None:
    """Raise InputError for blocks that a program of Triton cannot multiply."""
    if not set(block) <= {16, 32, 64, 128}:
        raise InputError(f"blocks of {block} are not for Triton: sides must be powers of two from 16 to 128")


def tiles(block: Block, dtype: torch.dtype = torch.bfloat16) -> list[Tile]:
    """Sizes worth measuring for a block: 32 to 256 outputs a program, at most 128 registers a thread for their sums.

    Stages from 4: of what is gathered Triton holds two fewer. In float32, of which a product is three, deeper panels
    need more registers than there are.
    """
    height, width = block
    found = [
        Tile(tokens, max(outputs // height, 1), max(depth, width), warps, stages)
        for tokens, outputs, depth, warps, stages in (HALF_SIZES if dtype == torch.bfloat16 else SINGLE_SIZES)
    ]
    return [tile for tile in dict.fromkeys(found) if tile.tokens * tile.rows * height <= 128 * 32 * tile.warps]


def merge(kept: Tensor, rows: int) -> list[tuple[list[int], Tensor]]:
    """Block rows in groups of `rows` that share block columns, the fullest group first.

    `kept` is bool, shape `(R, C)`. A group starts with the fullest row that is left and takes, one after another, the
    row that adds the fewest columns. Returns each group's rows and its union of columns, int64, in order.
    """
    kept = kept.cpu()
    left = kept.sum(1).argsort(descending=True, stable=True).tolist()
    groups = []
    while left:
        group = [left.pop(0)]
        union = kept[group[0]].clone()
        while left and len(group) < rows:
            group.append(left.pop(int((kept[left] & ~union).sum(1).argmin())))
            union |= kept[group[-1]]
        groups.append((group, union.nonzero()[:, 0]))
    return groups


@dataclass(frozen=True)
class Packed:
    """A weight as the kernel takes it; for the shapes see there."""

    values: Tensor
    starts: Tensor
    columns: Tensor
    order: Tensor


def pack(weight: Tensor, block: Block, rows: int, depth: int) -> Packed:
    """A weight of shape `(outputs, inputs)` in panels, on its device and in its type."""
    wide, split = depth // block[1], blocks.split(weight.detach(), block)
    values, columns, starts, order = [], [], [0], []
    for group, union in merge(blocks.mask(weight, block), rows):
        group = group + [-1] * (rows - len(group))
        part = split[[max(row, 0) for row in group]][:, union.to(weight.device)]  # of row -1 nothing is stored
        extra = -len(union) % wide
        part = torch.cat([part, part.new_zeros(rows, extra, *block)], 1)
        # (rows, panels * wide, height, width) to (panels, rows * height, wide * width)
        part = part.unflatten(1, (-1, wide)).permute(1, 0, 3, 2, 4)
        values.append(part.reshape(-1, rows * block[0], depth))
        columns.append(torch.cat([union, union.new_zeros(extra)]).view(-1, wide))
        starts.append(starts[-1] + len(columns[-1]))
        order.append(group)
    places = [torch.tensor(starts), torch.cat(columns), torch.tensor(order)]
    return Packed(torch.cat(values).contiguous(), *(place.int().to(weight.device) for place in places))


class PanelLinear(nn.Module):
    """y = f(x W^T + b) from the kept blocks of W alone, on a GPU; f is the identity or GELU. For inference only.

    Args:
        weight: Shape `(outputs, inputs)`, float32 or bfloat16, which is the type of x and y, too. Sums are in float32;
            float32 is multiplied on the matrix units as three products of tf32 numbers, which keeps its precision
            (docs of `triton.language.dot`).
        bias: Shape `(outputs,)`.
        block: Height and width of a block, powers of two from 16 to 128; they must divide the weight.
        gelu: Whether GELU (the exact one, with erf) follows.
        tile: The kernel's sizes.
        packed: The weight as `pack` gives it for the tile, where another layer has it already.

    Raises InputError for other blocks.
    """

    order: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, block: Block, gelu: bool, tile: Tile, packed: Packed | None = None
    ):
        super().__init__()
        check(block)
        self.outputs, self.inputs = weight.shape
        self.block, self.gelu, self.tile = block, gelu, tile
        packed = packed or pack(weight, block, tile.rows, tile.depth)
        for name, value in vars(packed).items():
            self.register_buffer(name, value)
        self.register_buffer("bias", bias.detach().float().clone())

    @property
    def instructions(self) -> str:
        """What multiplies: Triton, with tokens x merged rows x inputs x warps x stages."""
        return f"triton {self.tile}"

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`x` of shape `(..., inputs)` to `(..., outputs)`, into `out` if that is given (contiguous)."""
        from qalib.runtimes.gpu.triton_kernel import multiply

        x, tile = x.contiguous(), self.tile
        out = x.new_empty(*x.shape[:-1], self.outputs) if out is None else out
        tokens = x.numel() // self.inputs
        cast(Any, multiply)[-(-tokens // tile.tokens), len(self.order)](
            x, self.values, self.bias, out, self.starts, self.columns, self.order, tokens, self.inputs, self.outputs,
            *self.block, tile.rows, tile.tokens, tile.depth, self.gelu,
            PRECISION="tf32x3", num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        return out

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.inputs}, {self.outputs}, block={self.block}, gelu={self.gelu}, {self.instructions}"
