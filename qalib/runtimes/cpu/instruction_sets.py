"""What multiplies blocks on a CPU: the compiled operator's instruction sets, and torch where there is none.

The operator is `kernel/block_sparse.cpp`, compiled when the package is installed.
"""

import functools
import importlib.util
import os
from typing import NamedTuple

import torch

from qalib.model.blocks import Block
from qalib.utils.errors import InputError

TORCH = "torch"  # the instruction set's name where the operator is not there
INT8 = ("avx2_int8", "avx_vnni", "avx512_vnni", "amx_int8")  # int8 weights and, quantised token by token, activations
SIGNED = ("avx2_int8",)  # of these, those that keep the sign of an activation
BF16 = ("avx512_bf16", "amx_bf16")  # with activations of that type only
LEVELS = (TORCH, "portable", "avx2", "avx_vnni", "avx512", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


class Layout(NamedTuple):
    """Blocks are cut into pieces of `rows` and `width`, `step` inputs beside each other; `strip` rows are one strip."""

    rows: int
    width: int
    step: int
    strip: int


@functools.cache
def unavailable_reason() -> str | None:
    """Why the compiled operator cannot be used, or None if it can; loads it."""
    found = importlib.util.find_spec("qalib.runtimes.cpu._block_sparse")
    if found is None or found.origin is None:
        return "block_sparse.cpp was not compiled when qalib was installed"
    try:
        torch.ops.load_library(found.origin)
    except OSError as error:
        return f"{found.origin}: {error}"
    for name in ("block_sparse_linear", "attention"):
        torch.library.register_fake(f"qalib::{name}", lambda *arguments, **named: None)
    return None


def available() -> list[str]:
    """Return the instruction sets that this machine can run, in the order of LEVELS, not of a timing.

    `torch` is the PyTorch fallback. The environment variable QALIB_INSTRUCTIONS names the last of LEVELS that may be
    used. Raises InputError for a name that is not there.
    """
    most = os.environ.get("QALIB_INSTRUCTIONS") or LEVELS[-1]
    if most not in LEVELS:
        raise InputError(f"QALIB_INSTRUCTIONS: no instruction set {most!r}; there are {', '.join(LEVELS)}")
    allowed = LEVELS[: LEVELS.index(most) + 1]
    return [name for name in (TORCH, *_compiled()) if name in allowed or name.removesuffix("_int8") in allowed]


def _compiled() -> list[str]:
    return [] if unavailable_reason() else torch.ops.qalib.instruction_sets()


def supports(instructions: str, block: Block, dtype: torch.dtype) -> bool:
    """Whether an instruction set can multiply blocks of a size with activations of a type."""
    return layout(instructions, block) is not None and (instructions not in BF16 or dtype == torch.bfloat16)


def best(block: Block, dtype: torch.dtype) -> str:
    """The best instruction set for blocks of a size in a type, with weights in that type or better."""
    return [name for name in available() if name not in INT8 and supports(name, block, dtype)][-1]


def best_int8() -> str | None:
    """The best int8 instruction set of this machine, or None if it has none."""
    return next((name for name in reversed(available()) if name in INT8), None)


def int8_unavailable_reason() -> str | None:
    """Why there is no int8 instruction set to use, or None if there is one."""
    if best_int8():
        return None
    none = f"none of {', '.join(INT8)} is among this machine's {', '.join(available()[1:])}"
    return unavailable_reason() or none


def layout(instructions: str, block: Block) -> Layout | None:
    """How an instruction set has blocks stored, or None if they do not suit it."""
    if instructions == TORCH:
        return Layout(*block, 1, block[0])
    unavailable_reason()  # loads the operator
    found = torch.ops.qalib.layout(instructions, *block)
    return Layout(*found) if found else None
