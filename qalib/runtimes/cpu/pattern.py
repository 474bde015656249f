"""Which blocks of a weight are kept, and the three products of a training step over them: y, dx and dW.

y = x W^T and dx = dy W are products of `block_sparse_linear`, of W and its transpose, packed anew each time: that costs
as much as reading and writing the kept weights. dW is `block_sparse_weight_gradient`'s.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.block_sparse_linear import rows_within, strips
from qalib.runtimes.cpu.instruction_sets import Layout

# Up to these densities the operators are faster than a dense product (measured on a 2-core Zen 4), in blocks of SIDE
# and more, and in others; and how many times as many numbers as a vector of float32 AMX multiplies in a dense product.
MOST_DENSITY, MOST_DENSITY_NARROW, SIDE, AMX_PACE = 0.9, 0.3, 8, 16


class Packing(NamedTuple):
    """How the kept blocks, or their transposes, stand for an instruction set: the operator's tensors but the values.

    `offsets`, int64, are where each piece begins in the weight's values; its rows are `down` apart there, its columns
    `along`.
    """

    instructions: str
    layout: Layout
    starts: Tensor
    columns: Tensor
    rows: Tensor
    offsets: Tensor
    down: int
    along: int


class BlockPattern:
    """The kept blocks of a weight: bool, shape `(R, C)`, and the size of a block.

    Values are `(blocks, height, width)`, in row-major order of the grid, or the whole weight where `whole`.
    """

    def __init__(self, kept: Tensor, block: Block, whole: bool = False):
        self.kept, self.block, self.whole = kept.cpu(), block, whole
        self.shape = (kept.shape[0] * block[0], kept.shape[1] * block[1])
        self.rows, self.columns = self.kept.nonzero().int().T.contiguous()
        self.packings: dict[tuple[torch.dtype, bool], Packing] = {}
        self.gradients: dict[torch.dtype, str | None] = {}

    @property
    def density(self) -> float:
        """Kept / all blocks."""
        return len(self.rows) / max(1, self.kept.numel())

    def instructions(self, dtype: torch.dtype) -> str:
        """What multiplies activations of a type: an instruction set of the operators, or `torch` without them."""
        if dtype not in (torch.float32, torch.bfloat16) or instruction_sets.unavailable_reason():
            return instruction_sets.TORCH
        return self._packing(dtype, False).instructions

    def pays(self, dtype: torch.dtype) -> bool:
        """Whether the operators multiply activations of a type faster than a dense product does."""
        most = MOST_DENSITY if min(self.block) >= SIDE else MOST_DENSITY_NARROW
        return self.density <= most and self.instructions(dtype) != instruction_sets.TORCH

    def multiply(self, x: Tensor, values: Tensor, bias: Tensor | None, transposed: bool = False) -> Tensor:
        """x W^T + bias, shape `(..., outputs)`; x W, shape `(..., inputs)`, if `transposed`. float32 or bfloat16."""
        packing, outputs = self._packing(x.dtype, transposed), self.shape[1 if transposed else 0]
        layout = packing.layout
        stored = torch.bfloat16 if layout.step == 2 else torch.float32
        shape = (len(packing.offsets), layout.width // layout.step, layout.rows, layout.step)
        packed, out = values.new_empty(shape, dtype=stored), x.new_empty(*x.shape[:-1], outputs)
        torch.ops.qalib.pack_blocks(values, packing.offsets, packing.down, packing.along, packed)
        bias = values.new_zeros(outputs, dtype=torch.float32) if bias is None else bias.float()
        none = values.new_empty(0, dtype=torch.float32)
        tensors = (packed, packing.starts, packing.columns, packing.rows, bias, none, none.int())
        sizes = (self.shape[0 if transposed else 1], layout.strip, layout.width, False, packing.instructions)
        weight = torch.classes.qalib.PackedWeight(*tensors, *sizes)
        torch.ops.qalib.block_sparse_linear(x.contiguous(), weight.number(), None, None, None, None, 0.0, out)
        return out

    def weight_gradient(self, x: Tensor, dy: Tensor) -> Tensor:
        """The gradient of the kept blocks, shape `(blocks, height, width)`, float32, from x and y's gradient."""
        x, dy = x.reshape(-1, x.shape[-1]).contiguous(), dy.reshape(-1, dy.shape[-1]).contiguous()
        if x.dtype not in self.gradients:
            self.gradients[x.dtype] = gradient_instructions(self.block, x.dtype, self.density)
        name = self.gradients[x.dtype]
        if name is None:
            return blocks.split(dy.T @ x, self.block)[self.kept].float()
        out = x.new_empty(len(self.rows), *self.block, dtype=torch.float32)
        torch.ops.qalib.block_sparse_weight_gradient(x, dy, self.rows, self.columns, name, out)
        return out

    def _packing(self, dtype: torch.dtype, transposed: bool) -> Packing:
        if (dtype, transposed) not in self.packings:
            self.packings[dtype, transposed] = self._pack(dtype, transposed)
        return self.packings[dtype, transposed]

    def _pack(self, dtype: torch.dtype, transposed: bool) -> Packing:
        (height, width), (_, inputs) = self.block, self.shape
        kept, block = (self.kept.T, (width, height)) if transposed else (self.kept, self.block)
        name = instruction_sets.best(block, dtype)
        layout = instruction_sets.layout(name, block)
        assert layout is not None  # `best` returns an instruction set that supports the block
        row, column, counts = strips(kept, block, layout)
        first = (row * layout.rows, column * layout.width)
        down, along = first[::-1] if transposed else first  # row and column of the weight
        if self.whole:
            stride, offsets = inputs, down * inputs + along
        else:
            number = (self.kept.flatten().cumsum(0) - 1).view_as(self.kept)[down // height, along // width]
            stride, offsets = width, (number * height + down % height) * width + along % width
        starts = functional.pad(counts.cumsum(0), (1, 0)).int()
        steps = (1, stride) if transposed else (stride, 1)
        return Packing(
            name, layout, starts, (column * layout.width).int(), rows_within(row, layout), offsets.contiguous(), *steps
        )


def gradient_instructions(block: Block, dtype: torch.dtype, density: float) -> str | None:
    """The best instruction set for the gradient of kept blocks, or None if a dense product is faster, or all there is.

    Blocks too narrow for the longest vectors take shorter ones, and those of few rows load more than they multiply.
    """
    names = [
        name for name in instruction_sets.available() if name not in (instruction_sets.TORCH, *instruction_sets.INT8)
    ]
    lanes = {name: torch.ops.qalib.gradient_lanes(name) for name in names}
    paces = {
        name: (AMX_PACE * 16 if not lanes[name] else lanes[name] * (2 if name in instruction_sets.BF16 else 1))
        for name in names
        if dtype == torch.bfloat16 or name not in instruction_sets.BF16
    }
    fitting = [name for name in paces if lanes[name] and block[1] % lanes[name] == 0]
    if not fitting:
        return None
    slower = max(paces.values()) / paces[fitting[-1]] * max(1, 4 / block[0])
    return fitting[-1] if density * slower < 1 else None
