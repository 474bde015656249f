"""Runtimes: functions from a checkpoint to a torch module with the same logits, at another speed.

A runtime joins by a decorator:

    @runtime("name", "what it does, in a few words")
    def name(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module: ...

The module is called as BertForQuestionAnswering is and returns `start_logits` and `end_logits`, shape
`(batch, length)`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from qalib.checkpoint import Checkpoint
from qalib.errors import InputError
from qalib.runtimes import block_sparse, compact

Build = Callable[[Checkpoint, torch.device, torch.dtype], nn.Module]


@dataclass(frozen=True)
class Runtime:
    """A named way to run a checkpoint."""

    name: str
    description: str
    build: Build


REGISTRY: dict[str, Runtime] = {}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def runtime(name: str, description: str) -> Callable[[Build], Build]:
    """Register the decorated function under a name."""

    def register(build: Build) -> Build:
        REGISTRY[name] = Runtime(name, description, build)
        return build

    return register


def build(name: str, checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str = "fp32") -> nn.Module:
    """The checkpoint's module under the runtime `name`, on a device and in a type (fp32 or bf16), in eval mode.

    The checkpoint's own model is left as it is. Raises InputError for an unknown name or type, or a device that the
    runtime is not for.
    """
    if name not in REGISTRY:
        raise InputError(f"no runtime {name!r}; there are {', '.join(REGISTRY)}")
    if dtype not in DTYPES:
        raise InputError(f"no type {dtype!r}; there are {', '.join(DTYPES)}")
    return REGISTRY[name].build(checkpoint, torch.device(device), DTYPES[dtype]).eval()


@runtime("dense", "every weight multiplied, zeros included")
def _dense(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(checkpoint.model).to(device, dtype)


@runtime("compact", "heads and FFN neurons that do not change the output cut out, the rest run dense")
def _compact(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return compact.cut(copy.deepcopy(checkpoint.model)).to(device, dtype)


@runtime("block-sparse", "compact, and of what is left only the kept blocks multiplied (CPU)")
def _block_sparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    if device.type != "cpu":
        raise InputError(f"runtime block-sparse: for the CPU, not for {device}")
    model = compact.cut(copy.deepcopy(checkpoint.model), checkpoint.block)
    return block_sparse.convert(model.to(dtype), checkpoint.block)
