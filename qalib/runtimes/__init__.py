"""Runtimes: functions from a checkpoint to a torch module with the same logits, at another speed.

A runtime joins by a decorator:

    @runtime("name", "what it does, in a few words", devices=("cpu", "cuda"))
    def name(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module: ...

The module is called as BertForQuestionAnswering is and returns `start_logits` and `end_logits`, shape
`(batch, length)`. One that cannot run everywhere takes `unavailable_reason=`, a function that says why it
cannot run here, or None.
"""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BertForQuestionAnswering

from qalib.model import bert
from qalib.model.blocks import Block
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes import (
    baselines,
    block_sparse_gpu,
    compact,
    compiled,
    deepsparse,
    graphs,
    panels,
    pytorch_block_sparse,
)
from qalib.runtimes.cpu import block_sparse, instruction_sets
from qalib.runtimes.forward import Forward, Tf32
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
    opt_in: bool = False  # takes long to get ready, or one type only: runs when it is asked for
    sparse: bool = True  # does not multiply all the zeros
    peer: bool = False  # another library's
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    unavailable_reason: Callable[[], str | None] = lambda: None  # why it cannot run here, if it cannot
    cuda_unavailable_reason: Callable[[], str | None] = lambda: None  # the same, on a GPU only


REGISTRY: dict[str, Runtime] = {}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "tf32": torch.float32}  # tf32: products only, on GPUs


def runtime(name: str, description: str, **more: Any) -> Callable[[Build], Build]:
    """Register the decorated function under a name."""

    def register(build: Build) -> Build:
        REGISTRY[name] = Runtime(name, description, build, **more)
        return build

    return register


def unavailable_reason(name: str, device: str | torch.device, dtype: str | None = None) -> str | None:
    """Why the runtime `name` cannot run here, on a device and in a type, or None if it can.

    Raises InputError for an unknown name or type.
    """
    if name not in REGISTRY:
        raise InputError(f"no runtime {name!r}; there are {', '.join(REGISTRY)}")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"no type {dtype!r}; there are {', '.join(DTYPES)}")
    found, kind = REGISTRY[name], torch.device(device).type
    if kind not in found.devices:
        return f"is for {', '.join(found.devices)}, not for {device}"
    if dtype == "tf32" and kind == "cpu":
        return "tf32 is a type of GPUs"
    if dtype is not None and dtype not in found.dtypes:
        return f"is for {', '.join(found.dtypes)}, not for {dtype}"
    if kind == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA GPU on this machine"
    return found.unavailable_reason() or (found.cuda_unavailable_reason() if kind == "cuda" else None)


def available(device: str | torch.device) -> list[str]:
    """The names of the runtimes that can run here and give the same answers, dense first; but for those by name."""
    return [
        name for name, r in REGISTRY.items() if r.exact and not r.opt_in and unavailable_reason(name, device) is None
    ]


def best(device: str | torch.device) -> str:
    """The runtime to take on a device: block-sparse on a CPU where it is compiled, or compact.

    On a GPU compact, too, as long as the faster ones have not been run on one.
    """
    compiled_here = torch.device(device).type == "cpu" and not instruction_sets.unavailable_reason()
    return "block-sparse" if compiled_here else "compact"


def kernel(module: nn.Module) -> str:
    """What multiplies the blocks of a block-sparse module: instructions, on a GPU with their sizes, else nothing.

    Where it is torch because the operator is not there, it says so.
    """
    sets = {part.instructions for part in module.modules() if hasattr(part, "instructions")}
    why = f" ({instruction_sets.unavailable_reason()})" if instruction_sets.TORCH in sets else ""
    return ", ".join(sorted(sets)) + why


def build(name: str, checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: str = "fp32") -> nn.Module:
    """The checkpoint's module under the runtime `name`, on a device and in a type (of DTYPES), in eval mode.

    The checkpoint's own model is left as it is. Raises InputError for an unknown name or type, or a runtime that cannot
    run here.
    """
    if (reason := unavailable_reason(name, device, dtype)) is not None:
        raise InputError(f"runtime {name}: {reason}")
    module = REGISTRY[name].build(checkpoint, torch.device(device), DTYPES[dtype]).eval()
    return Tf32(module) if dtype == "tf32" else module


@runtime("dense", "every weight multiplied, zeros included", sparse=False, dtypes=("fp32", "bf16", "tf32"))
def _dense(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(checkpoint.model).to(device, dtype)


@runtime("compact", "heads and FFN neurons that do not change the output cut out, the rest run dense")
def _compact(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return compact.build(checkpoint.model, device, dtype)


def _cut(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> BertForQuestionAnswering:
    return compact.build(checkpoint.model, device, dtype, checkpoint.block)


def _in_graphs(model: BertForQuestionAnswering, device: torch.device) -> graphs.Graphs:
    record = None if device.type == "cuda" else graphs.record_on_cpu
    return graphs.Graphs(Forward(model.eval()), bert.max_tokens(model), record)


@runtime(
    "block-sparse",
    "compact, and of what is left only the kept blocks multiplied; on a GPU where that is faster, in CUDA graphs",
    cuda_unavailable_reason=panels.unavailable_reason,
)
def _block_sparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    if device.type == "cuda":
        linear = functools.partial(block_sparse_gpu.fastest_linear, block=checkpoint.block)
        return _in_graphs(block_sparse_gpu.convert(_cut(checkpoint, device, dtype), linear), device)
    return block_sparse.convert(_cut(checkpoint, device, dtype), checkpoint.block)


@runtime(
    "block-sparse-int8",
    "as block-sparse, in int8, which changes a few answers",
    devices=("cpu",),
    exact=False,
    unavailable_reason=instruction_sets.int8_unavailable_reason,
)
def _block_sparse_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    instructions = instruction_sets.best_int8()
    block = _supported(instructions, checkpoint, dtype)
    cut = compact.build(checkpoint.model, device, dtype, block)
    module = block_sparse.convert(cut, block, instructions)
    if block != checkpoint.block:
        module.remark = f"multiplies blocks of {block}, which hold those of {checkpoint.block}, zeros between included"
    return module


def _supported(instructions: str, checkpoint: Checkpoint, dtype: torch.dtype) -> Block:
    """The checkpoint's block, or the smallest one of several that these instructions multiply."""
    height, width = checkpoint.block
    config = checkpoint.model.config
    sides = (config.hidden_size // config.num_attention_heads, config.intermediate_size)
    wider = (height, math.lcm(width, 4))
    fits = all(side % wider[1] == 0 for side in sides)
    for block in (checkpoint.block, *[wider] * fits):
        if instruction_sets.supports(instructions, block, dtype):
            return block
    raise InputError(
        f"runtime block-sparse-int8: {instructions} is not for blocks of {checkpoint.block}; "
        "4 columns, or a multiple of that, fit everywhere"
    )


@runtime(
    "compact-graph",
    "compact, query, key and value in one product, in CUDA graphs (GPU)",
    devices=("cuda",),
)
def _compact_graph(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return _in_graphs(block_sparse_gpu.convert(_cut(checkpoint, device, dtype)), device)


_PEER = {"devices": ("cpu",), "opt_in": True, "sparse": False, "peer": True}


@runtime("openvino", "OpenVINO, dense", unavailable_reason=baselines.not_installed("openvino"), **_PEER)
def _openvino(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return baselines.openvino(copy.deepcopy(checkpoint.model), dtype)


@runtime(
    "onnxruntime-int8",
    "ONNX Runtime, dense, dynamic int8",
    exact=False,
    dtypes=("fp32",),
    unavailable_reason=baselines.not_installed("onnx", "onnxscript", "onnxruntime"),
    **_PEER,
)
def _onnxruntime_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return baselines.onnxruntime_int8(copy.deepcopy(checkpoint.model))


@runtime(
    "torchao-int8",
    "torchao, dense, dynamic int8, compiled",
    exact=False,
    unavailable_reason=baselines.not_installed("torchao"),
    **_PEER,
)
def _torchao_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return baselines.torchao_int8(copy.deepcopy(checkpoint.model).to(dtype))


_DEEPSPARSE = _PEER | {"sparse": True, "dtypes": ("fp32",), "unavailable_reason": deepsparse.unavailable_reason}


@runtime("deepsparse", "DeepSparse, which skips single zeros, in an environment of its own", **_DEEPSPARSE)
def _deepsparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return deepsparse.build(copy.deepcopy(checkpoint.model), int8=False)


@runtime("deepsparse-int8", "DeepSparse, static int8, in an environment of its own", exact=False, **_DEEPSPARSE)
def _deepsparse_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return deepsparse.build(copy.deepcopy(checkpoint.model), int8=True)


@runtime(
    "pytorch-block-sparse",
    "compact, and of what is left the kept blocks by the library of that name (GPU, fp32)",
    devices=("cuda",),
    opt_in=True,
    dtypes=("fp32",),
    unavailable_reason=pytorch_block_sparse.unavailable_reason,
)
def _pytorch_block_sparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return pytorch_block_sparse.convert(_cut(checkpoint, device, dtype), checkpoint.block)


@runtime("dense-compiled", "dense through torch.compile, on a GPU with CUDA graphs", opt_in=True, sparse=False)
def _dense_compiled(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return compiled.Compiled(_dense(checkpoint, device, dtype).eval(), device)
