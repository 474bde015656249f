"""Tuning: which size of a kernel is the fastest on the GPU at hand."""

import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from qalib.utils.errors import one_line

WRONG = 2e-2  # of the norm: what differs more from the expected result is not rounding
Size = TypeVar("Size")
Time = Callable[[Callable[[Tensor], Tensor], Tensor], float]


def device_key(like: Tensor) -> str:
    """What every key begins with: card, torch and the type of a tensor."""
    card = torch.cuda.get_device_name() if like.is_cuda else "no GPU"
    return f"{card}, torch {torch.__version__}, {str(like.dtype).removeprefix('torch.')}"


def milliseconds(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The median time of a layer on the GPU."""
    from triton.testing import do_bench

    return do_bench(lambda: layer(x), warmup=3, rep=12, return_mode="median")


def fastest(
    make: Callable[[Size], nn.Module], sizes: Iterable[Size], x: Tensor, expected: Tensor, time: Time = milliseconds
) -> Size | None:
    """The size whose layer takes `x` through in the least time; None if there is none that works.

    A size whose layer fails, in whatever way, or gives something else than `expected`, is left out, with a warning that
    says why.
    """
    times: dict[Size, float] = {}
    for size in sizes:
        try:
            layer = make(size)
            error = ((layer(x).double() - expected).norm() / expected.norm().clamp_min(1e-9)).item()
            if not error <= WRONG:
                raise ArithmeticError(f"differs from dense by {error:.2g} of the norm")
            times[size] = time(layer, x)
        except Exception as error:  # out of registers or memory, a compiler's failure, a wrong result
            warnings.warn(f"size {size} is left out: {one_line(error)}", stacklevel=2)
    return min(times, key=times.__getitem__, default=None)
