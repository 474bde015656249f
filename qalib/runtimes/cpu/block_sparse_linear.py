"""The compiled operator as modules: a linear layer that multiplies the kept blocks only, and attention's products.

Without the operator torch's own do it: activations transposed, the inputs that a block row needs gathered, one product
a row.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.model.relative_positions import PositionBias
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.instruction_sets import INT8, SIGNED, TORCH, Layout
from qalib.utils.errors import InputError

HIDDEN = -1e30  # added to a score, makes its weight next to nothing


def strips(kept: Tensor, block: Block, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column, in pieces, of each piece that the kept blocks are cut into, and how many each strip has.

    Pieces are in order of strips, then of columns. `kept` is bool, shape `(R, C)`.
    """
    in_strip = layout.strip // layout.rows
    kept = kept.repeat_interleave(block[0] // layout.rows, 0).repeat_interleave(block[1] // layout.width, 1)
    kept = functional.pad(kept, (0, 0, 0, -len(kept) % in_strip)).unflatten(0, (-1, in_strip)).transpose(1, 2)
    strip, column, row = kept.nonzero().T
    return strip * in_strip + row, column, kept.sum((1, 2))


def rows_within(row: Tensor, layout: Layout) -> Tensor:
    """The row of each piece within its strip, int16; none where a piece has all rows of one."""
    in_strip = layout.strip // layout.rows
    return (row % in_strip if in_strip > 1 else row[:0]).short()


def gathered(tiles: Tensor, columns: Tensor, counts: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Put pieces of one column together, `step` of a strip in each, filled up with zeros from column 0.

    `tiles` has shape `(pieces, rows, 1)`, `columns` one of each and `counts` how many of each strip. Returns tiles of
    shape `(n, rows, step)`, where each strip starts, in columns, and `n * step` columns.
    """
    filled = -(-counts // step) * step
    starts = functional.pad(filled.cumsum(0), (1, 0))
    shift = starts[:-1] - functional.pad(counts.cumsum(0), (1, 0))[:-1]
    place = torch.arange(len(columns)) + shift.repeat_interleave(counts)
    values, from_columns = tiles.new_zeros(int(starts[-1]), tiles.shape[1]), columns.new_zeros(int(starts[-1]))
    values[place], from_columns[place] = tiles[..., 0], columns
    return values.unflatten(0, (-1, step)).transpose(1, 2), starts.int(), from_columns


class BlockSparseLinear(nn.Module):
    """y = f(x W^T + b) from the kept blocks of W alone; f is the identity or GELU. For inference, in one type.

    Args:
        weight: Shape `(outputs, inputs)`; what is zero block by block is not stored.
        bias: Shape `(outputs,)`.
        block: Height and width of a block; they must divide the weight.
        gelu: Whether GELU (the exact one, with erf) follows.
        dtype: float32 or bfloat16: the type of x and y. Sums are in float32, or int32 for int8.
        instructions: One of `instruction_sets.available()`; the best by default.
    """

    starts: Tensor  # these four without the operator
    columns: Tensor
    values: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        block: Block,
        gelu: bool = False,
        dtype: torch.dtype = torch.float32,
        instructions: str | None = None,
    ):
        super().__init__()
        self.outputs, self.inputs = weight.shape
        self.block, self.gelu = block, gelu
        self.instructions = instructions or instruction_sets.best(block, dtype)
        kept, weight = blocks.mask(weight, block), weight.detach().float()
        scales, offsets = weight.new_empty(0), torch.empty(0, dtype=torch.int32)
        if self.instructions in INT8:  # a scale for each row; the operator adds 128 to activations without a sign
            scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            weight = (weight / scales[:, None]).round()
            offsets = ((0 if self.instructions in SIGNED else -128) * weight.sum(1)).int()
        layout = instruction_sets.layout(self.instructions, block)
        assert layout is not None, f"{self.instructions} does not support blocks of {block}"
        row, column, counts = strips(kept, block, layout)
        tiles = blocks.split(weight, (layout.rows, layout.width))[row, column]
        starts, columns = functional.pad(counts.cumsum(0), (1, 0)).int(), (column * layout.width).int()
        if self.instructions == TORCH:  # a matrix a block row, shape (height, kept * width)
            values = torch.cat([part.transpose(0, 1).reshape(-1) for part in tiles.split(counts.tolist())])
            parts = {"values": values.to(dtype), "starts": starts, "columns": columns, "bias": bias.detach().to(dtype)}
            for name, part in parts.items():
                self.register_buffer(name, part.clone())
            return
        if layout.width % layout.step:
            tiles, starts, columns = gathered(tiles, columns, counts, layout.step)
        values = tiles.unflatten(-1, (-1, layout.step)).transpose(1, 2)  # (piece, width / step, rows, step)
        stored = torch.int8 if self.instructions in INT8 else dtype if layout.step == 2 else torch.float32
        tensors = (
            values.to(stored).contiguous(),
            starts,
            columns,
            rows_within(row, layout),
            bias.detach().float().clone(),
        )
        sizes = (self.inputs, layout.strip, layout.width, gelu, self.instructions)
        self.set_extra_state((*tensors, scales, offsets, *sizes))

    def get_extra_state(self) -> tuple | None:
        """The tensors and sizes of the packed weight, for a state dict; None where torch multiplies buffers."""
        return None if self.instructions == TORCH else self.weight.__getstate__()[0]

    def set_extra_state(self, state: tuple | None) -> None:
        """Pack the weight of a state dict.

        Raises InputError without the operator, RuntimeError for a weight that it can't multiply.
        """
        if state is None:
            return
        if reason := instruction_sets.unavailable_reason():
            raise InputError(f"a layer packed for {state[-1]} needs the compiled operator: {reason}")
        self.weight = torch.classes.qalib.PackedWeight(*state)
        self.number = self.weight.number()  # by which the operator finds it, for as long as it lives

    def __getstate__(self) -> dict:
        others = {name: part for name, part in vars(self).items() if name != "weight"}
        return others | {"packed": self.get_extra_state()}

    def __setstate__(self, state: dict) -> None:
        packed = state.pop("packed")
        super().__setstate__(state)
        self.set_extra_state(packed)

    def forward(
        self,
        x: Tensor,
        out: Tensor | None = None,
        residual: Tensor | None = None,
        norm: nn.LayerNorm | None = None,
        inner: "BlockSparseLinear | None" = None,
    ) -> Tensor:
        """`x` of shape `(..., inputs)` to `(..., outputs)`, into `out` if that is given (contiguous).

        With `residual`, of the shape of the result, that is `norm(y + residual)`; with `inner`, a layer of the same
        instructions, it is of `inner(x)`. All is one operator, a tile of tokens at a time: what is between stays in the
        cache.
        """
        if self.instructions == TORCH:
            y = self._by_torch(x if inner is None else inner(x), out)
            return y if residual is None or norm is None else norm(y.add_(residual))
        out = x.new_empty(*x.shape[:-1], self.outputs) if out is None else out
        added = (None, None, None, 0.0)
        if residual is not None and norm is not None:
            added = (residual.contiguous(), norm.weight.float(), norm.bias.float(), norm.eps)
        first = None if inner is None else inner.number
        torch.ops.qalib.block_sparse_linear(x.contiguous(), self.number, first, *added, out)
        return out

    def _by_torch(self, x: Tensor, out: Tensor | None) -> Tensor:
        height, width = self.block
        inputs = x.reshape(-1, self.inputs).T.contiguous().view(-1, width, x[..., 0].numel())
        found = x.new_empty(self.outputs, inputs.shape[-1])
        ends, columns = self.starts.tolist(), self.columns // width
        for row, (first, last) in enumerate(zip(ends, ends[1:], strict=False)):
            rows = slice(row * height, (row + 1) * height)
            weight = self.values[first * height * width : last * height * width].view(height, -1)
            chosen = inputs.index_select(0, columns[first:last]).flatten(0, 1)
            torch.addmm(self.bias[rows, None], weight, chosen, out=found[rows])
        found = functional.gelu(found.T) if self.gelu else found.T
        found = found.reshape(*x.shape[:-1], self.outputs)
        return found if out is None else out.copy_(found)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.inputs}, {self.outputs}, block={self.block}, gelu={self.gelu}, {self.instructions}"


def attends(size: int, dtype: torch.dtype) -> str:
    """Return the best instruction set for attention with heads of a size in a type.

    It is `torch` without vector instructions and for sizes that 16 does not divide: a rule, not a timing.
    """
    best = instruction_sets.best((size, size), dtype)
    return best if size % 16 == 0 and best != "portable" else TORCH


class AttentionProducts(nn.Module):
    """What is between the linear layers of attention: softmax of queries times keys, times values.

    Scores are float32, as in torch's scaled_dot_product_attention, which does it if `instructions` are `torch`.
    """

    def __init__(self, heads: int, size: int, instructions: str = TORCH):
        super().__init__()
        self.heads, self.size, self.chosen = heads, size, instructions if heads else TORCH

    def forward(
        self,
        qkv: Tensor,
        mask: Tensor | None = None,
        out: Tensor | None = None,
        position_bias: PositionBias | None = None,
    ) -> Tensor:
        """`qkv` of shape `(batch, length, 3 * heads * size)` to `(batch, length, heads * size)`, in `out` if given.

        `mask`, broadcastable to `(batch, 1, length, length)`, is true, or 0, for keys that are seen, in all rows alike.
        `position_bias`, made with that mask, is added to the scaled scores.
        """
        batch, length, _ = qkv.shape
        if self.chosen == TORCH:
            mask = mask if position_bias is None else position_bias.mask
            query, key, value = qkv.view(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            return context.transpose(1, 2).flatten(2)
        if mask is not None:
            mask = mask[:, 0, 0].expand(batch, length)
            seen = mask if mask.dtype == torch.bool else mask == 0
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~seen, HIDDEN)
        out = qkv.new_empty(batch, length, self.heads * self.size) if out is None else out
        bias = None if position_bias is None else position_bias.by_distance.float().contiguous()
        torch.ops.qalib.attention(qkv, mask, bias, self.heads, self.size**-0.5, self.chosen, out)
        return out
