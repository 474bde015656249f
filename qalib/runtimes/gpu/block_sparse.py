"""The block-sparse GPU runtime: matrices in panels where that is faster, else dense.

Which is faster, and with which sizes of the kernel, is timed on the GPU at hand when a model is made, for three numbers
of tokens. Sizes are kept in a table: matrices of a kind share them, and so do models.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForQuestionAnswering

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.runtimes import timings
from qalib.runtimes.cpu import block_sparse
from qalib.runtimes.cpu.block_sparse import AddNorm
from qalib.runtimes.gpu import add_norm, panels, tuning
from qalib.runtimes.gpu.panels import Packed, PanelLinear, Tile
from qalib.runtimes.gpu.tuning import Time
from qalib.utils.paths import CACHE

TOKENS = (384, 3072, 12288)  # for which sizes are measured: 1, 8 and 32 windows of 384
DENSE_FROM = 0.6  # kept / all blocks of a matrix, from which panels are not tried: a bound on tuning, not a break-even
TABLE = CACHE / "panels.json"


class DenseLinear(nn.Module):
    """A linear layer, with GELU or without, called as the sparse ones are; it makes its result itself."""

    instructions = "dense"
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, gelu: bool = False):
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", bias.detach())
        self.outputs, self.gelu = len(weight), gelu

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        y = functional.linear(x, self.weight, self.bias)
        return functional.gelu(y) if self.gelu else y


class ByTokens(nn.Module):
    """Layers with the same result, of which the one is taken that was the fastest for about as many tokens."""

    def __init__(self, layers: dict[int, nn.Module]):
        super().__init__()
        self.tokens, self.layers = list(layers), nn.ModuleList(layers.values())
        self.outputs = self.layers[0].outputs

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        return self.nearest(x.shape[:-1].numel())(x, out)

    def nearest(self, tokens: int) -> nn.Module:
        """The layer for a number of tokens: that of the nearest number that was timed, by ratio."""
        at = min(range(len(self.tokens)), key=lambda at: abs(math.log(max(tokens, 1) / self.tokens[at])))
        return self.layers[at]


def fastest_linear(
    weight: Tensor,
    bias: Tensor,
    block: Block,
    gelu: bool = False,
    time: Time = tuning.milliseconds,
    table: Path = TABLE,
    tokens: tuple[int, ...] = TOKENS,
) -> nn.Module:
    """A linear layer from its weight, shape `(outputs, inputs)`: dense, in panels, or either by the number of tokens.

    `time` gives the milliseconds of a layer for an input. Raises InputError for blocks that are not for Triton.
    """
    panels.check(block)
    dense = DenseLinear(weight, bias, gelu)
    density = blocks.mask(weight, block).float().mean().item()
    if density >= DENSE_FROM:
        return dense
    packed: dict[tuple[int, int], Packed] = {}

    def make(tile: Tile) -> PanelLinear:
        way = (tile.rows, tile.depth)
        if way not in packed:
            packed[way] = panels.pack(weight, block, *way)
        return PanelLinear(weight, bias, block, gelu, tile, packed[way])

    layers: dict[int, nn.Module] = {}
    tiles = panels.tiles(block, weight.dtype)
    for count in tokens:
        x = torch.randn(count, weight.shape[1], device=weight.device, dtype=weight.dtype)
        expected = dense(x).double()

        def find(x: Tensor = x, expected: Tensor = expected) -> dict[str, int] | None:
            tile = tuning.fastest(make, tiles, x, expected, time)
            return tile and asdict(tile)

        key = f"{kind(weight, block, gelu, density)}, {count} tokens"
        found = timings.cached(table, key, find, [asdict(tile) for tile in tiles].__contains__)
        sparse = found and make(Tile(**found))
        layers[count] = sparse if sparse and time(sparse, x) < time(dense, x) else dense
    chosen = {getattr(layer, "tile", None) for layer in layers.values()}
    return next(iter(layers.values())) if len(chosen) == 1 else ByTokens(layers)


def kind(weight: Tensor, block: Block, gelu: bool, density: float) -> str:
    """What matrices that share a kernel's sizes have in common: card, torch, type, blocks, about size and density."""
    sides = "x".join(str(-(-side // 512) * 512) for side in weight.shape)
    after = ", GELU" * gelu
    return f"{tuning.device_key(weight)}, {block[0]}x{block[1]}, to {sides}, {density:.1f} kept{after}"


def no_workspace(*_) -> None:
    """In place of a workspace: the GPU's allocator is quick, and a graph has its own memory."""


def convert(
    model: BertForQuestionAnswering, linear: Callable[[Tensor, Tensor, bool], nn.Module] = DenseLinear
) -> BertForQuestionAnswering:
    """The model itself, on its device, with query, key and value as one product and linear layers made by `linear`.

    On a GPU residual and LayerNorm are one kernel where that is faster.
    """
    normed = add_norm.fastest if model.device.type == "cuda" else AddNorm
    return block_sparse.replace(model, linear, workspace=no_workspace, normed=normed)
