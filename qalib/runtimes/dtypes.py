"""Types: which of fp32 and bf16 is faster on the machine at hand, by a short timing.

Instructions for a type do not make it the faster one: on some processors with `avx512_bf16`, torch multiplies bf16 more
slowly than fp32. So a small layer is timed in both, once per machine, and the seconds are stored in a file.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from qalib.model import blocks
from qalib.runtimes import timings
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.block_sparse_linear import BlockSparseLinear
from qalib.runtimes.registry import DTYPES, REGISTRY, unavailable_reason
from qalib.utils import machine, openmp
from qalib.utils.errors import InputError, one_line
from qalib.utils.paths import CACHE

TYPES = ("fp32", "bf16")
TRAINING, KERNELS = "training", ("block-sparse", "block-sparse-int8")  # all other work is timed as dense inference
TABLE = CACHE / "types.json"
# Tokens, width, inner width and density of the layer that is timed, and of the one whose results are checked.
TIMED = {"cpu": (256, 384, 1536, 0.3), "cuda": (16384, 384, 1536, 0.3)}
CHECKED = (64, 64, 128, 1.0)
BLOCK = (32, 32)
WRONG = 0.05  # of the norm: int8 and bf16 stay below half of it
DEFINITION = (
    "seconds in fp32 / seconds in bf16 on this machine, of the feed-forward part of a BERT layer, "
    "384 to 1536 to 384, with random weights; the shortest of several rounds, on a CPU on one thread"
)
Layer = Callable[[], list[Tensor]]


def choose(wanted: str, work: str, device: str = "cpu") -> str:
    """Return `wanted`, `fp32` or `bf16`, or for `auto` the faster of them.

    Raises InputError for another name, or a type that this process multiplies wrongly.
    """
    if wanted not in ("auto", *TYPES):
        raise InputError(f"no type {wanted!r}; there are auto, {' and '.join(TYPES)}")
    if wanted == "auto":
        return fastest(work, device)
    if device == "cpu":
        openmp.require_right_products(wanted)
    return wanted


def choose_dtype(wanted: str, runtime: str, device: str = "cpu") -> tuple[str, str]:
    """Return `wanted` or, for `auto`, the faster type for a runtime on a device, and a remark on its speed.

    Raises InputError for an unknown type or an unavailable runtime.
    """
    if (reason := unavailable_reason(runtime, device)) is not None:
        raise InputError(f"runtime {runtime}: {reason}")
    supported = [dtype for dtype in TYPES if dtype in REGISTRY[runtime].dtypes]
    if wanted == "auto" and len(supported) == 1:
        return supported[0], f"the only type of {runtime}"
    dtype = choose(wanted, runtime, device)
    return dtype, remark(dtype, runtime, device)


def fastest(work: str, device: str = "cpu") -> str:
    """Return the faster type for some work on a device: `training`, or inference under the runtime of that name.

    Types that the device has no instructions for are not considered, nor those whose products are wrong here.
    """
    return by_speed(work, device)[-1]


def by_speed(work: str, device: str = "cpu") -> list[str]:
    """Return the types to consider for some work on a device (see `fastest`), the fastest last."""
    times = seconds(work, device)
    return sorted(times, key=times.__getitem__, reverse=True) or ["fp32"]


def bf16_speed(work: str, device: str = "cpu") -> float | None:
    """Return seconds in fp32 / seconds in bf16 (see DEFINITION), or None where bf16 is not timed."""
    times = seconds(work, device)
    return times["fp32"] / times["bf16"] if times else None


def remark(dtype: str, work: str, device: str = "cpu") -> str:
    """Return how fast bf16 is beside fp32 here, with a note if `dtype` is the slower one."""
    if is_emulated("bf16", work, device):
        return "bf16: not timed, as there are no instructions for it here"
    if (speed := bf16_speed(work, device)) is None:
        return "bf16: its products are wrong here"
    slower = "" if dtype == fastest(work, device) else f"; {dtype} is the slower type"
    return f"bf16: {speed:.2f} times as fast as fp32 here ({_kind(work, device)} layer){slower}"


def is_emulated(dtype: str, work: str, device: str = "cpu") -> bool:
    """Whether there are no instructions for a type here, of torch or, for work that is the kernel's, of the kernel."""
    if dtype == "bf16" and _kind(work, device) in KERNELS:
        return not set(instruction_sets.BF16) & set(instruction_sets.available())
    return machine.is_emulated(dtype, device)


def seconds(work: str, device: str = "cpu") -> dict[str, float]:
    """Return the seconds of a layer in fp32 and bf16, timed once per machine; nothing where there is no choice."""
    kind = _kind(work, device)
    key = f"{timings.machine_key(device)}, {kind}"
    has_choice = not is_emulated("bf16", work, device) and all(is_right(kind, d, device, key) for d in TYPES)
    return measured(kind, device, key) if has_choice else {}


def _kind(work: str, device: str) -> str:
    return work if work == TRAINING or work in KERNELS and device == "cpu" else "dense"


@functools.cache
def is_right(kind: str, dtype: str, device: str, key: str) -> bool:
    """Whether a layer in a type has the results of float64; not stored, as an environment variable may change it.

    torch's bf16 products are NaN if OpenMP grants fewer threads than torch asks for (OMP_THREAD_LIMIT).
    """
    try:
        results, exact = (_layer(kind, each, device, *CHECKED)() for each in (dtype, None))
        for result, expected in zip(results, exact, strict=True):
            error = ((result.double() - expected).norm() / expected.norm()).item()
            if not error <= WRONG:  # NaN, too
                raise ArithmeticError(f"results are off by {error:.2g} of their norm")
    except Exception as error:  # an instruction that is not there after all, no memory, a wrong result
        warnings.warn(f"{dtype} is not chosen for {kind}: {one_line(error)}", stacklevel=2)
        return False
    return True


@functools.cache  # where the file cannot be written: once in a process
def measured(kind: str, device: str, key: str) -> dict[str, float]:
    """Return the seconds of a layer from the file, or time it and store them under a key."""

    def find() -> dict[str, float]:
        return timings.shortest_seconds({dtype: _layer(kind, dtype, device, *TIMED[device]) for dtype in TYPES}, device)

    return timings.cached(TABLE, key, find, _are_seconds)


def _are_seconds(value: Any) -> bool:
    """Whether a value from the file is one that was stored there."""
    if not isinstance(value, dict) or value.keys() != set(TYPES):
        return False
    return all(isinstance(number, float) and 0 < number < math.inf for number in value.values())


def _layer(kind: str, dtype: str | None, device: str, tokens: int, width: int, inner: int, density: float) -> Layer:
    """Return a call of the layer, for training also backward; `dtype` None stands for float64 without the kernel."""
    generator, stored = torch.Generator().manual_seed(0), DTYPES[dtype] if dtype else torch.float64
    weights, biases = [], []
    for shape in ((inner, width), (width, inner)):
        kept = torch.rand(blocks.grid_shape(shape, BLOCK), generator=generator) < density
        weights.append(torch.randn(shape, generator=generator) * blocks.expand(kept, BLOCK) / math.sqrt(width))
        biases.append(torch.randn(shape[0], generator=generator))
    x = torch.randn(tokens, width, generator=generator)
    if kind in KERNELS and dtype:
        return _kernel(kind, weights, biases, x.to(stored))
    kept_type = torch.float32 if kind == TRAINING and dtype else stored  # autocast converts at each step
    parts = [part.to(device, kept_type) for pair in zip(weights, biases, strict=True) for part in pair]
    return _dense([x.to(device, stored), *parts], kind == TRAINING, dtype == "bf16")


def _dense(parts: list[Tensor], training: bool, lowered: bool) -> Layer:
    """Return a call of torch's layer, of `x`, weight, bias, weight, bias."""
    device = parts[0].device.type

    def run() -> list[Tensor]:
        with torch.inference_mode(not training), torch.autocast(device, torch.bfloat16, enabled=training and lowered):
            x, weight, bias, outer, outer_bias = parts
            y = functional.linear(functional.gelu(functional.linear(x, weight, bias)), outer, outer_bias)
        results = [y, *(torch.autograd.grad(y, parts, x) if training else [])]
        if device == "cuda":
            torch.cuda.synchronize()
        return results

    for part in parts:
        part.requires_grad_(training)
    return run


def _kernel(kind: str, weights: list[Tensor], biases: list[Tensor], x: Tensor) -> Layer:
    """Return a call of the block-sparse layer."""
    instructions = instruction_sets.best_int8() if kind == "block-sparse-int8" else None
    inner, outer = (
        BlockSparseLinear(weight, bias, BLOCK, number == 0, x.dtype, instructions)
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True))
    )

    def run() -> list[Tensor]:
        with torch.inference_mode():
            return [outer(x, inner=inner)]

    return run
