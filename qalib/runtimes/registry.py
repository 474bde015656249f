"""The registry of runtimes: functions from a checkpoint to a torch module with the same logits, at another speed.

A runtime joins by a decorator:

    @runtime("name", "what it does, in a few words", devices=("cpu", "cuda"))
    def name(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module: ...

The module is called as BertForQuestionAnswering is and returns `start_logits` and `end_logits`, shape
`(batch, length)`. A runtime that is not available everywhere takes `unavailable_reason=`, a function that returns the
reason, or None.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.forward import Tf32
from qalib.utils import openmp
from qalib.utils.errors import InputError

Build = Callable[[Checkpoint, torch.device, torch.dtype], nn.Module]


@dataclass(frozen=True)
class Runtime:
    """A named way to run a checkpoint."""

    name: str
    description: str
    build: Build
    devices: tuple[str, ...] = ("cpu", "cuda")
    exact: bool = True  # but for rounding in its type
    opt_in: bool = False  # slow to build, or for one type only: runs on request
    sparse: bool = True  # skips zeros
    peer: bool = False  # another library's
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    unavailable_reason: Callable[[], str | None] = lambda: None
    cuda_unavailable_reason: Callable[[], str | None] = lambda: None  # the same, on a GPU only
    caveat: Callable[[Checkpoint, nn.Module], str] = lambda checkpoint, module: ""  # about the built module's times


REGISTRY: dict[str, Runtime] = {}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "tf32": torch.float32}  # tf32: products only, on GPUs


def runtime(name: str, description: str, **more: Any) -> Callable[[Build], Build]:
    """Register the decorated function under a name."""

    def register(build: Build) -> Build:
        REGISTRY[name] = Runtime(name, description, build, **more)
        return build

    return register


def unavailable_reason(name: str, device: str | torch.device, dtype: str | None = None) -> str | None:
    """Return why the runtime `name` is unavailable on a device and in a type, or None.

    Raises InputError for an unknown name or type.
    """
    if name not in REGISTRY:
        raise InputError(f"no runtime {name!r}; there are {', '.join(REGISTRY)}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"no type {dtype!r}; there are {', '.join(DTYPES)}")
    entry, kind = REGISTRY[name], torch.device(device).type
    if kind not in entry.devices:
        return f"is for {', '.join(entry.devices)}, not for {device}"
    if dtype == "tf32" and kind == "cpu":
        return "tf32 is a type of GPUs"
    if dtype is not None and dtype not in entry.dtypes:
        return f"is for {', '.join(entry.dtypes)}, not for {dtype}"
    if kind == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA GPU on this machine"
    return entry.unavailable_reason() or (entry.cuda_unavailable_reason() if kind == "cuda" else None)


def available(device: str | torch.device) -> list[str]:
    """Return the names of available exact runtimes, dense first, excluding opt-in ones."""
    return [
        name for name, r in REGISTRY.items() if r.exact and not r.opt_in and unavailable_reason(name, device) is None
    ]


def build(name: str, checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str = "fp32") -> nn.Module:
    """Build the checkpoint's module under the runtime `name`, on a device and in a type (of DTYPES), in eval mode.

    The checkpoint's own model is unchanged. Raises InputError for an unknown name or type, an unavailable runtime, or
    a type that this process multiplies wrongly.
    """
    if (reason := unavailable_reason(name, device, dtype)) is not None:
        raise InputError(f"runtime {name}: {reason}")
    if torch.device(device).type == "cpu":
        openmp.require_right_products(dtype)
    module = REGISTRY[name].build(checkpoint, torch.device(device), DTYPES[dtype]).eval()
    return Tf32(module) if dtype == "tf32" else module


def not_installed(*packages: str) -> Callable[[], str | None]:
    """Return a function that names the packages that are not installed and how to get them, or returns None."""

    def unavailable_reason() -> str | None:
        absent = [name for name in packages if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)} (make peers)" if absent else None

    return unavailable_reason
