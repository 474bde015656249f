"""The block-sparse CPU runtime: BERT layers whose linear layers multiply the kept blocks only.

Attention between the linear layers goes through the same multiplication: torch's takes a third of the time otherwise.
"""

import threading
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertLayer

from qalib.model import bert
from qalib.model.blocks import Block
from qalib.model.relative_positions import PositionBias
from qalib.runtimes.cpu import widening
from qalib.runtimes.cpu.block_sparse_linear import AttentionProducts, BlockSparseLinear, attends


class Workspace(threading.local):
    """Memory for results that are used up before the next one of the same name is asked for.

    Fresh memory costs page faults: about a third of the time of a linear layer (measured on a 2-core Zen 4).
    """

    def __init__(self):
        self.held: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """A tensor of a shape with the type of `like`; its values are whatever was there."""
        size = torch.Size(shape).numel()
        held = self.held.get((name, like.dtype))
        if held is None or held.numel() < size:
            held = self.held[name, like.dtype] = like.new_empty(size)
        return held[:size].view(shape)


class AddNorm(nn.Module):
    """A norm, of any class, of the sum of two tensors; the first is overwritten."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, y: Tensor, residual: Tensor) -> Tensor:
        """Both of shape `(..., width)` to that shape."""
        return self.norm(y.add_(residual))


class BlockSparseLayer(nn.Module):
    """A BERT layer with the same output, from block-sparse linear layers; query, key and value are one of them.

    `sparse(weight, bias, gelu=False)` makes one of those, with `outputs` and an argument `out` as BlockSparseLinear;
    `products(heads, size)` makes what is between those of attention, `normed(norm)` what adds the residual and norms.
    `workspace`, called as a `Workspace` is, gives memory for a result, or None: it is made then.
    """

    def __init__(
        self,
        layer: BertLayer,
        sparse: Callable[..., nn.Module],
        products: Callable[..., AttentionProducts],
        workspace: Callable[..., Tensor | None],
        normed: Callable[[nn.Module], AddNorm] = AddNorm,
    ):
        super().__init__()
        attention = layer.attention
        parts = [getattr(attention.self, name) for name in ("query", "key", "value")]
        self.products = products(attention.self.num_attention_heads, attention.self.attention_head_size)
        self.heads: Tensor | None
        self.register_buffer("heads", getattr(attention.self, "heads", None), persistent=False)
        self.workspace = workspace
        self.inputs = sparse(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        self.outputs = sparse(attention.output.dense.weight, attention.output.dense.bias)
        self.outputs_norm = normed(attention.output.LayerNorm)
        # erf GELU is the one that is built in
        self.activation = None if is_gelu(layer) else layer.intermediate.intermediate_act_fn
        self.inner = sparse(layer.intermediate.dense.weight, layer.intermediate.dense.bias, self.activation is None)
        self.outer = sparse(layer.output.dense.weight, layer.output.dense.bias)
        self.outer_norm = normed(layer.output.LayerNorm)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *rest,
        position_bias: PositionBias | None = None,
        **named,
    ) -> Tensor:
        """As BertLayer's, for encoders: `(batch, length, size)` to the same."""
        x, bias = hidden_states, position_bias and position_bias.of(self.heads)
        qkv = self._into("qkv", self.inputs, x)
        context = self._memory("context", x, *x.shape[:-1], qkv.shape[-1] // 3)
        context = self.products(qkv, attention_mask, context, bias)
        x = self._normed(self.outputs, self.outputs_norm, context, x, self._memory("middle", x, *x.shape))
        if self._in_one:
            return self._normed(self.outer, self.outer_norm, x, x, torch.empty_like(x), inner=self.inner)
        inner = self._into("inner", self.inner, x)
        inner = inner if self.activation is None else self.activation(inner)
        return self._normed(self.outer, self.outer_norm, inner, x, torch.empty_like(x))

    @property
    def _in_one(self) -> bool:
        """Whether both products of the feed-forward part can be one operator."""
        inner, outer = self.inner, self.outer
        if not (isinstance(inner, BlockSparseLinear) and isinstance(outer, BlockSparseLinear)):
            return False
        return self.activation is None and inner.instructions == outer.instructions

    def _normed(
        self, linear: nn.Module, last: AddNorm, x: Tensor, residual: Tensor, out: Tensor | None, **named: nn.Module
    ) -> Tensor:
        if isinstance(linear, BlockSparseLinear) and isinstance(last.norm, nn.LayerNorm):
            return linear(x, out, residual, last.norm, **named)
        return last(linear(x, out, **named), residual)

    def _into(self, name: str, linear: nn.Module, x: Tensor) -> Tensor:
        return linear(x, self._memory(name, x, *x.shape[:-1], cast(int, linear.outputs)))

    def _memory(self, name: str, like: Tensor, *shape: int) -> Tensor | None:
        """From the workspace; none while torch.compile looks, which plans memory itself."""
        return None if torch.compiler.is_compiling() else self.workspace(name, like, *shape)


def is_gelu(layer: BertLayer) -> bool:
    """Whether the layer's activation is the exact GELU."""
    ends = torch.tensor([-1e4, -100, -20, 20, 100, 1e4])  # where GELU clipped at 10 is another
    points = torch.cat([torch.linspace(-6, 6, 97), ends]).to(layer.output.dense.weight.device)
    return torch.allclose(layer.intermediate.intermediate_act_fn(points), functional.gelu(points), atol=1e-6, rtol=0)


def replace(
    model: BertForQuestionAnswering,
    sparse: Callable[..., nn.Module],
    products: Callable[..., AttentionProducts] = AttentionProducts,
    workspace: Callable[..., Tensor | None] | None = None,
    normed: Callable[[nn.Module], AddNorm] = AddNorm,
) -> BertForQuestionAnswering:
    """The model itself with its encoder layers replaced by block-sparse ones, of parts as `BlockSparseLayer` says."""
    workspace = workspace or Workspace()
    for number, layer in enumerate(bert.layers(model)):
        model.bert.encoder.layer[number] = BlockSparseLayer(layer, sparse, products, workspace, normed)
    return model


def convert(model: BertForQuestionAnswering, block: Block, instructions: str | None = None) -> BertForQuestionAnswering:
    """The model itself, in its type and on the CPU, with block-sparse encoder layers, in wider blocks for AMX."""

    def sparse(weight: Tensor, bias: Tensor, gelu: bool = False) -> BlockSparseLinear:
        wide = widening.widened(weight, block, weight.dtype, instructions)
        return BlockSparseLinear(weight, bias, wide, gelu, weight.dtype, instructions)

    def products(heads: int, size: int) -> AttentionProducts:
        return AttentionProducts(heads, size, attends(size, model.dtype))

    return replace(model, sparse, products)
