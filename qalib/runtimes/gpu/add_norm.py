"""Residual and norm after a product: `norm(y + residual)`, on a GPU in one kernel in place of two.

A kernel of its own, and not the product's epilogue. For a norm a program of the product would have to own whole rows:
of 768 sums for 64 tokens there are 196 kB, three quarters of an SM's registers, and 384 tokens would be 6 programs for
132 SMs; and groups of block rows in panels share columns only among themselves. cuBLAS has no such epilogue, either.
Moments that programs add up for others to apply need a wait across programs, or a product that computes with what it
gathers, where it now copies ahead without touching it. What is left to win is traffic: torch's two kernels move five
times tokens x width (read y and residual, write the sum; read the sum, write the result), this one three, and keeps the
sum in float32. The bias is added in the product's epilogue, where it costs nothing. torch.compile does the same.
"""

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qalib.runtimes import timings
from qalib.runtimes.cpu.block_sparse import AddNorm
from qalib.runtimes.gpu import panels, tuning
from qalib.runtimes.gpu.tuning import Time
from qalib.utils.paths import CACHE

TOKENS = 3072  # for which sizes are measured: 8 windows of 384
TABLE = CACHE / "add-norm.json"


@dataclass(frozen=True)
class Size:
    """Tokens that a program of the kernel takes, and its warps."""

    rows: int
    warps: int

    def __str__(self) -> str:
        return "x".join(map(str, astuple(self)))


# A warp a row needs no barrier for its sums, several share the work of few rows; rows together read the weights once.
SIZES = (Size(1, 1), Size(1, 2), Size(1, 4), Size(2, 4), Size(4, 4), Size(4, 8))


class FusedAddNorm(AddNorm):
    """The same for a LayerNorm by the Triton kernel of `triton_kernel.py`, for inference; sums are in float32."""

    def __init__(self, norm: nn.LayerNorm, size: Size):
        super().__init__(norm)
        self.size = size

    def forward(self, y: Tensor, residual: Tensor, out: Tensor | None = None) -> Tensor:
        """Both of shape `(..., width)` to that shape, into `out` if that is given (contiguous), else into `y`."""
        from triton import next_power_of_2

        from qalib.runtimes.gpu.triton_kernel import add_norm

        y, residual, norm = y.contiguous(), residual.contiguous(), self.norm
        out = y if out is None else out
        width = y.shape[-1]
        tokens = y.numel() // width
        cast(Any, add_norm)[(-(-tokens // self.size.rows),)](
            y, residual, norm.weight, norm.bias, out, tokens, width, norm.eps,
            self.size.rows, next_power_of_2(width), num_warps=self.size.warps,
        )  # fmt: skip
        return out

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"tokens x warps: {self.size}"


class WithItself(nn.Module):
    """`norm(x + x)`, for timing: called with one tensor, which it leaves as it is."""

    def __init__(self, layer: AddNorm):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Any shape `(..., width)` to that shape."""
        if isinstance(self.layer, FusedAddNorm):
            return self.layer(x, x, torch.empty_like(x))
        return self.layer.norm(x + x)


def fastest(norm: nn.Module, time: Time = tuning.milliseconds, table: Path = TABLE) -> AddNorm:
    """What adds and norms on the GPU at hand: the kernel in its fastest size, for a LayerNorm, where that is faster.

    That is timed once for a card, type and width, and kept. A norm of another kind stays what it is, and all do where
    Triton is not installed. `time` gives the milliseconds of a layer for an input.
    """
    if not isinstance(norm, nn.LayerNorm) or panels.unavailable_reason():
        return AddNorm(norm)
    weight, bias = norm.weight, norm.bias

    def find() -> list[int] | None:
        x = torch.randn(TOKENS, len(weight), device=weight.device, dtype=weight.dtype)
        expected = functional.layer_norm(2 * x.double(), weight.shape, weight.double(), bias.double(), norm.eps)
        layers = {size: WithItself(FusedAddNorm(norm, size)) for size in SIZES}
        size = tuning.fastest(layers.__getitem__, SIZES, x, expected, time)
        slower = size and time(WithItself(AddNorm(norm)), x) <= time(layers[size], x)
        return [] if slower else size and [size.rows, size.warps]

    known = [[], *([size.rows, size.warps] for size in SIZES)]
    with torch.inference_mode():
        key = f"{tuning.device_key(weight)}, norm of {len(weight)}"
        found = timings.cached(table, key, find, known.__contains__)
    return FusedAddNorm(norm, Size(*found)) if found else AddNorm(norm)
