"""Tuning: what is fastest on the machine at hand, timed once and kept in a file."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qalib.utils.errors import InputError, one_line
from qalib.utils.files import read_json_object, write_json

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qalib"
WRONG = 2e-2  # of the norm: what differs more from the expected result is not rounding
Size = TypeVar("Size")
Time = Callable[[nn.Module, Tensor], float]


def cached(table: Path, key: str, find: Callable[[], Any], is_valid: Callable[[Any], bool] = lambda value: True) -> Any:
    """Return the value of a key in a JSON file; if there is none, or none that is valid, that of `find`, and store it.

    A file that cannot be read, or is damaged, counts as empty, and one that cannot be written is left as it is: then it
    is timed again next time. None is not stored.
    """
    known = _read(table)
    if key in known and is_valid(known[key]):
        return known[key]
    if (value := find()) is not None:
        with contextlib.suppress(OSError):
            write_json(table, _read(table) | {key: value})  # read again: another process may have written
    return value


def _read(table: Path) -> dict[str, Any]:
    try:
        return read_json_object(table, "of timings")
    except InputError:
        return {}


def device_key(like: Tensor) -> str:
    """What every key begins with: card, torch and the type of a tensor."""
    card = torch.cuda.get_device_name() if like.is_cuda else "no GPU"
    return f"{card}, torch {torch.__version__}, {str(like.dtype).removeprefix('torch.')}"


def milliseconds(layer: nn.Module, x: Tensor) -> float:
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
    return min(times, key=times.get, default=None)
