"""The block-sparse GPU runtime: linear layers that multiply the kept blocks only, by a Triton kernel of our own.

Block rows are merged in groups that share block columns (`merge`); the kernel (`triton_kernel.py`) takes a group at
a time. How many rows are merged, and the kernel's other sizes, are measured on the GPU at hand when a layer is made.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.runtimes import block_sparse
from qalib.utils.errors import InputError

TOKENS = 8192  # the tokens with which sizes are measured


@dataclass(frozen=True)
class Tile:
    """What a program of the kernel holds (tokens, merged block rows), its warps, and the steps it loads ahead."""

    tokens: int
    rows: int
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


def tiles(block: Block) -> list[Tile]:
    """Sizes worth measuring for a block: 32 to 256 outputs a program, at most 128 registers a thread for their sums."""
    wanted = [
        (64, 32, 2), (64, 64, 4), (64, 128, 4), (64, 256, 4),
        (128, 32, 4), (128, 64, 4), (128, 64, 6), (128, 128, 3), (128, 128, 5), (128, 256, 3), (128, 256, 4),
        (256, 64, 3), (256, 64, 5), (256, 128, 3), (256, 128, 4),
    ]  # fmt: skip
    found = []
    for tokens, outputs, stages in wanted:
        rows = max(outputs // block[0], 1)
        found.append(Tile(tokens, rows, 4 if tokens * rows * block[0] <= 128 * 128 else 8, stages))
    return list(dict.fromkeys(found))


def merge(kept: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Block rows in groups of `rows` that share block columns, the fullest group first.

    `kept` is bool, shape `(R, C)`. A group starts with the fullest row that is left and takes, one after another, the
    row that adds the fewest columns. Returns four int32 tensors, as the kernel takes them: `starts`, shape
    `(groups + 1,)`, `columns`, `(steps,)`, `slots`, `(steps, rows)`, and `order`, `(groups, rows)`.
    """
    kept = kept.cpu()
    number = (kept.flatten().cumsum(0) - 1).view(kept.shape).where(kept, -1)
    left = kept.sum(1).argsort(descending=True, stable=True).tolist()
    starts, columns, slots, order = [0], [], [], []
    while left:
        group = [left.pop(0)]
        union = kept[group[0]].clone()
        while left and len(group) < rows:
            group.append(left.pop((kept[left] & ~union).sum(1).argmin().item()))
            union |= kept[group[-1]]
        empty = torch.full((int(union.sum()), rows - len(group)), -1)
        columns.append(union.nonzero()[:, 0])
        slots.append(torch.cat([number[group][:, union].T, empty], 1))
        order.append(torch.tensor(group + [-1] * (rows - len(group))))
        starts.append(starts[-1] + len(columns[-1]))
    return torch.tensor(starts).int(), torch.cat(columns).int(), torch.cat(slots).int(), torch.stack(order).int()


class MergedLinear(nn.Module):
    """y = f(x W^T + b) from the kept blocks of W alone, on a GPU; f is the identity or GELU. For inference only.

    Args:
        weight: Shape `(outputs, inputs)`; what is zero block by block is not stored.
        bias: Shape `(outputs,)`.
        block: Height and width of a block, powers of two from 16 to 128; they must divide the weight.
        gelu: Whether GELU (the exact one, with erf) follows.
        dtype: float32 or bfloat16: the type of x and y. Sums are in float32; float32 is multiplied on the matrix units
            as three products of tf32 numbers, which keeps its precision (docs of `triton.language.dot`).
        tile: The kernel's sizes.

    Raises InputError for other blocks.
    """

    def __init__(self, weight: Tensor, bias: Tensor, block: Block, gelu: bool, dtype: torch.dtype, tile: Tile):
        super().__init__()
        check(block)
        self.outputs, self.inputs = weight.shape
        self.block, self.gelu, self.tile = block, gelu, tile
        kept = blocks.mask(weight, block)
        self.register_buffer("values", blocks.split(weight.detach(), block)[kept].to(dtype).contiguous())
        self.register_buffer("bias", bias.detach().float().clone())
        for name, found in zip(("starts", "columns", "slots", "order"), merge(kept, tile.rows), strict=True):
            self.register_buffer(name, found.to(weight.device))

    @property
    def instructions(self) -> str:
        """What multiplies: Triton, with tokens x merged rows x warps x stages."""
        return f"triton {self.tile}"

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`x` of shape `(..., inputs)` to `(..., outputs)`, into `out` if that is given (contiguous)."""
        from qalib.runtimes.triton_kernel import multiply

        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.outputs) if out is None else out
        tokens = x.numel() // self.inputs
        multiply[-(-tokens // self.tile.tokens), len(self.order)](
            x, self.values, self.bias, out, self.starts, self.columns, self.slots, self.order,
            tokens, self.inputs, self.outputs, *self.block, self.tile.rows, self.tile.tokens, self.gelu,
            PRECISION="tf32x3", num_warps=self.tile.warps, num_stages=self.tile.stages,
        )  # fmt: skip
        return out

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.inputs}, {self.outputs}, block={self.block}, gelu={self.gelu}, {self.instructions}"


def milliseconds(linear: nn.Module, x: Tensor) -> float:
    """The median time of a layer on the GPU; infinite where it needs more registers or shared memory than there are."""
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    try:
        return do_bench(lambda: linear(x), warmup=5, rep=20, return_mode="median")
    except OutOfResources:
        return float("inf")


def fastest(
    make: Callable[[Tile], MergedLinear],
    sizes: Sequence[Tile],
    x: Tensor,
    time: Callable[[nn.Module, Tensor], float] = milliseconds,
) -> MergedLinear:
    """Of the layers that `make` gives for the sizes, the one that takes `x` through in the least time."""
    return min((make(tile) for tile in sizes), key=lambda linear: time(linear, x))


def convert(model: BertForQuestionAnswering, block: Block, tile: Tile | None = None) -> BertForQuestionAnswering:
    """The model itself, on its device and in its type, with block-sparse encoder layers; without `tile` measured."""

    def linear(weight: Tensor, bias: Tensor, gelu: bool = False) -> MergedLinear:
        def make(tile: Tile) -> MergedLinear:
            return MergedLinear(weight, bias, block, gelu, weight.dtype, tile)

        return make(tile) if tile else fastest(make, tiles(block), weight.new_ones(TOKENS, weight.shape[1]))

    return block_sparse.replace(model, linear)
