"""The block-sparse CPU runtime: linear layers that multiply the kept blocks only, and BERT layers made of them.

The multiplication is `block_sparse.cpp`, a torch operator that is compiled when the package is installed. Without it
torch's own operators do it: activations transposed, the inputs that a block row needs gathered, one product a row.
Attention between the linear layers goes through the same multiplication: torch's takes a third of the time otherwise.
"""

import functools
import importlib.util
import os
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertLayer

from qalib.model import bert, blocks
from qalib.model.blocks import Block
from qalib.utils.errors import InputError

TORCH = "torch"  # the instruction set's name where the operator is not there
HIDDEN = -1e30  # added to a score, makes its weight next to nothing
INT8 = ("avx2_int8", "avx_vnni", "avx512_vnni")  # with int8 weights and, quantised token by token, activations
SIGNED = ("avx2_int8",)  # of these, those that keep the sign of an activation
LEVELS = (TORCH, "portable", "avx2", "avx_vnni", "avx512", "avx512_bf16", "avx512_vnni")  # QALIB_INSTRUCTIONS


@functools.cache
def unavailable() -> str | None:
    """Why the compiled operator cannot be used, or None if it can; loads it."""
    found = importlib.util.find_spec("qalib.runtimes._block_sparse")
    if found is None or found.origin is None:
        return "block_sparse.cpp was not compiled when qalib was installed"
    try:
        torch.ops.load_library(found.origin)
    except OSError as error:
        return f"{found.origin}: {error}"
    for name in ("block_sparse_linear", "attention"):
        torch.library.register_fake(f"qalib::{name}", lambda *arguments: None)
    return None


def instruction_sets() -> list[str]:
    """What this machine can run, the best last; `torch` stands for the way without the operator.

    The environment variable QALIB_INSTRUCTIONS names the last of LEVELS that may be used. Raises InputError for a name
    that is not there.
    """
    most = os.environ.get("QALIB_INSTRUCTIONS") or LEVELS[-1]
    if most not in LEVELS:
        raise InputError(f"QALIB_INSTRUCTIONS: no instruction set {most!r}; there are {', '.join(LEVELS)}")
    allowed = LEVELS[: LEVELS.index(most) + 1]
    return [name for name in (TORCH, *_compiled()) if name.removesuffix("_int8") in allowed]


def _compiled() -> list[str]:
    return [] if unavailable() else torch.ops.qalib.instruction_sets()


def supports(instructions: str, block: Block, dtype: torch.dtype) -> bool:
    """Whether an instruction set can multiply blocks of a size with activations of a type."""
    fits = instructions == TORCH or _layout(instructions, block)[1] > 0
    return fits and (instructions != "avx512_bf16" or dtype == torch.bfloat16)


def instructions_for(block: Block, dtype: torch.dtype) -> str:
    """The best instruction set for blocks of a size in a type, with weights in that type or better."""
    return [name for name in instruction_sets() if name not in INT8 and supports(name, block, dtype)][-1]


def int8_instructions() -> str | None:
    """The best int8 instruction set of this machine, or None if it has none."""
    return next((name for name in reversed(instruction_sets()) if name in INT8), None)


def int8_missing() -> str | None:
    """Why there is no int8 instruction set to use, or None if there is one."""
    if int8_instructions():
        return None
    return unavailable() or f"none of {', '.join(INT8)} is among this machine's {', '.join(instruction_sets()[1:])}"


def _layout(instructions: str, block: Block) -> tuple[int, int]:
    return tuple(torch.ops.qalib.layout(instructions, *block)) or (0, 0)


class Room(threading.local):
    """Memory for results that are used up before the next one of the same name is asked for.

    Fresh memory costs page faults: about a third of the time of a linear layer (measured on a 2-core Zen 4).
    """

    def __init__(self):
        self.held: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """A tensor of a shape with the type of `like`; its values are whatever was there."""
        size = torch.Size(shape).numel()
        if torch.compiler.is_compiling():
            return like.new_empty(shape)
        held = self.held.get((name, like.dtype))
        if held is None or held.numel() < size:
            held = self.held[name, like.dtype] = like.new_empty(size)
        return held[:size].view(shape)


class BlockSparseLinear(nn.Module):
    """y = f(x W^T + b) from the kept blocks of W alone; f is the identity or GELU. For inference, in one type.

    Args:
        weight: Shape `(outputs, inputs)`; what is zero block by block is not stored.
        bias: Shape `(outputs,)`.
        block: Height and width of a block; they must divide the weight.
        gelu: Whether GELU (the exact one, with erf) follows.
        dtype: float32 or bfloat16: the type of x and y. Sums are in float32, or int32 for int8.
        instructions: One of `instruction_sets()`; the best by default.
    """

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
        self.instructions = instructions or instructions_for(block, dtype)
        kept, weight = blocks.mask(weight, block), weight.detach().float()
        scales, offsets = weight.new_empty(0), torch.empty(0, dtype=torch.int32)
        if self.instructions in INT8:  # a scale for each row; the operator adds 128 to activations without a sign
            scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            weight = (weight / scales[:, None]).round()
            offsets = ((0 if self.instructions in SIGNED else -128) * weight.sum(1)).int()
        tiles = blocks.split(weight, block)
        lanes, step = (block[0], 1) if self.instructions == TORCH else _layout(self.instructions, block)
        strips = block[0] // lanes
        kept = kept.repeat_interleave(strips, 0)
        starts = functional.pad(kept.sum(1).cumsum(0), (1, 0))
        # blocks (R, C, height, width) to strips (R * strips, C, lanes, width)
        tiles = tiles.unflatten(2, (strips, lanes)).transpose(1, 2).flatten(0, 1)[kept]
        if self.instructions == TORCH:  # a matrix a block row, shape (height, kept * width)
            values = torch.cat([row.transpose(0, 1).reshape(-1) for row in tiles.split(kept.sum(1).tolist())])
        else:  # (block, width / step, lanes, step)
            values = tiles.unflatten(-1, (-1, step)).transpose(1, 2)
        if self.instructions in INT8:
            stored = torch.int8
        else:
            stored = dtype if self.instructions == TORCH or step == 2 else torch.float32
        self.register_buffer("values", values.to(stored).contiguous())
        self.register_buffer("starts", starts.int())
        self.register_buffer("columns", (kept.nonzero()[:, 1] * block[1]).int())
        self.register_buffer("bias", bias.detach().to(dtype if self.instructions == TORCH else torch.float32).clone())
        self.register_buffer("scales", scales)
        self.register_buffer("offsets", offsets)

    def forward(
        self,
        x: Tensor,
        out: Tensor | None = None,
        residual: Tensor | None = None,
        norm: nn.LayerNorm | None = None,
    ) -> Tensor:
        """`x` of shape `(..., inputs)` to `(..., outputs)`, into `out` if that is given (contiguous).

        With `residual`, of the shape of the result, that is `norm(y + residual)`: in one operator, a tile of tokens at
        a time, as two more passes through memory would take a tenth of a layer's time.
        """
        if self.instructions == TORCH:
            found = self._by_torch(x, out)
            return found if residual is None else norm(found.add_(residual))
        out = x.new_empty(*x.shape[:-1], self.outputs) if out is None else out
        added = (None, None, None, 0.0)
        if residual is not None:
            added = (residual.contiguous(), norm.weight.float(), norm.bias.float(), norm.eps)
        torch.ops.qalib.block_sparse_linear(
            x.contiguous(), self.values, self.starts, self.columns, self.bias, self.scales, self.offsets,
            self.block[1], self.gelu, self.instructions, *added, out,
        )  # fmt: skip
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
    """The best instruction set for attention with heads of a size in a type; `torch` where its own is the faster."""
    best = instructions_for((size, size), dtype)
    return best if size % 16 == 0 and best != "portable" else TORCH


class AttentionProducts(nn.Module):
    """What is between the linear layers of attention: softmax of queries times keys, times values.

    Scores are float32, as in torch's scaled_dot_product_attention, which does it if `instructions` are `torch`.
    """

    def __init__(self, heads: int, size: int, instructions: str = TORCH):
        super().__init__()
        self.heads, self.size, self.chosen = heads, size, instructions if heads else TORCH

    def forward(self, qkv: Tensor, mask: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """`qkv` of shape `(batch, length, 3 * heads * size)` to `(batch, length, heads * size)`, in `out` if given.

        `mask`, broadcastable to `(batch, 1, length, length)`, is true, or 0, for keys that are seen, in all rows alike.
        """
        batch, length, _ = qkv.shape
        if self.chosen == TORCH:
            query, key, value = qkv.view(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            return context.transpose(1, 2).flatten(2)
        if mask is not None:
            mask = mask[:, 0, 0].expand(batch, length)
            seen = mask if mask.dtype == torch.bool else mask == 0
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~seen, HIDDEN)
        out = qkv.new_empty(batch, length, self.heads * self.size) if out is None else out
        torch.ops.qalib.attention(qkv, mask, self.heads, self.size**-0.5, self.chosen, out)
        return out


class BlockSparseLayer(nn.Module):
    """A BERT layer with the same output, from block-sparse linear layers; query, key and value are one of them.

    `sparse(weight, bias, gelu=False)` makes one of those, with `outputs` and an argument `out` as BlockSparseLinear;
    `products(heads, size)` makes what is between those of attention.
    """

    def __init__(
        self, layer: BertLayer, sparse: Callable[..., nn.Module], products: Callable[..., AttentionProducts], room: Room
    ):
        super().__init__()
        attention = layer.attention
        parts = [getattr(attention.self, name) for name in ("query", "key", "value")]
        self.products = products(attention.self.num_attention_heads, attention.self.attention_head_size)
        self.room = room
        self.inputs = sparse(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        self.outputs = sparse(attention.output.dense.weight, attention.output.dense.bias)
        self.outputs_norm = attention.output.LayerNorm
        # erf GELU is the one that is built in
        self.activation = None if is_gelu(layer) else layer.intermediate.intermediate_act_fn
        self.inner = sparse(layer.intermediate.dense.weight, layer.intermediate.dense.bias, self.activation is None)
        self.outer = sparse(layer.output.dense.weight, layer.output.dense.bias)
        self.outer_norm = layer.output.LayerNorm

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *rest, **named) -> Tensor:
        """As BertLayer's, for encoders: `(batch, length, size)` to the same."""
        x = hidden_states
        qkv = self._into("qkv", self.inputs, x)
        context = self.room("context", x, *x.shape[:-1], qkv.shape[-1] // 3)
        context = self.products(qkv, attention_mask, context)
        x = self._normed(self.outputs, self.outputs_norm, context, x, self.room("middle", x, *x.shape))
        inner = self._into("inner", self.inner, x)
        inner = inner if self.activation is None else self.activation(inner)
        return self._normed(self.outer, self.outer_norm, inner, x, torch.empty_like(x))

    def _normed(self, linear: nn.Module, norm: nn.Module, x: Tensor, residual: Tensor, out: Tensor) -> Tensor:
        if isinstance(linear, BlockSparseLinear) and isinstance(norm, nn.LayerNorm):
            return linear(x, out, residual, norm)
        return norm(linear(x, out).add_(residual))

    def _into(self, name: str, linear: nn.Module, x: Tensor) -> Tensor:
        return linear(x, self.room(name, x, *x.shape[:-1], linear.outputs))


def is_gelu(layer: BertLayer) -> bool:
    """Whether the layer's activation is the exact GELU."""
    ends = torch.tensor([-1e4, -100, -20, 20, 100, 1e4])  # where GELU clipped at 10 is another
    points = torch.cat([torch.linspace(-6, 6, 97), ends]).to(layer.output.dense.weight.device)
    return torch.allclose(layer.intermediate.intermediate_act_fn(points), functional.gelu(points), atol=1e-6, rtol=0)


def replace(
    model: BertForQuestionAnswering,
    sparse: Callable[..., nn.Module],
    products: Callable[..., AttentionProducts] = AttentionProducts,
) -> BertForQuestionAnswering:
    """The model itself with its encoder layers replaced by block-sparse ones, of parts as `BlockSparseLayer` says."""
    room = Room()
    for number, layer in enumerate(bert.layers(model)):
        model.bert.encoder.layer[number] = BlockSparseLayer(layer, sparse, products, room)
    return model


def convert(model: BertForQuestionAnswering, block: Block, instructions: str | None = None) -> BertForQuestionAnswering:
    """The model itself, in its type and on the CPU, with block-sparse encoder layers."""

    def sparse(weight: Tensor, bias: Tensor, gelu: bool = False) -> BlockSparseLinear:
        return BlockSparseLinear(weight, bias, block, gelu, weight.dtype, instructions)

    def products(heads: int, size: int) -> AttentionProducts:
        return AttentionProducts(heads, size, attends(size, model.dtype))

    return replace(model, sparse, products)
