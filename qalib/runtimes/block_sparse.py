"""The block-sparse runtimes: compact, and only the kept blocks of the rest multiplied, by the kernel of the device."""

import functools
import math

import torch
from torch import nn

from qalib.model.blocks import Block
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes import compact
from qalib.runtimes.cpu import block_sparse as on_cpu
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.block_sparse_linear import BlockSparseLinear
from qalib.runtimes.gpu import block_sparse as on_gpu
from qalib.runtimes.gpu import graphs, panels
from qalib.runtimes.registry import runtime
from qalib.utils.errors import InputError


def best(device: str | torch.device) -> str:
    """Return the default runtime for a device: block-sparse on a CPU if its kernel is compiled, else compact.

    On a GPU it is compact until the faster ones are tested there.
    """
    compiled_here = torch.device(device).type == "cpu" and not instruction_sets.unavailable_reason()
    return "block-sparse" if compiled_here else "compact"


def kernel(module: nn.Module) -> str:
    """Return the instructions that multiply a module's blocks, on a GPU with tile sizes; "" for other modules.

    For the PyTorch fallback the reason follows in parentheses.
    """
    sets = {str(part.instructions) for part in module.modules() if hasattr(part, "instructions")}
    why = f" ({instruction_sets.unavailable_reason()})" if instruction_sets.TORCH in sets else ""
    return ", ".join(sorted(sets)) + why


@runtime(
    "block-sparse",
    "compact, with only the kept blocks multiplied; on a GPU where that is faster, in CUDA graphs",
    cuda_unavailable_reason=panels.unavailable_reason,
)
def _block_sparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    cut = compact.build(checkpoint.model, device, dtype, checkpoint.block)
    if device.type == "cuda":
        fastest = functools.partial(on_gpu.fastest_linear, block=checkpoint.block)
        return graphs.capture(on_gpu.convert(cut, fastest), device)
    return on_cpu.convert(cut, checkpoint.block)


def _int8_caveat(checkpoint: Checkpoint, module: nn.Module) -> str:
    block = next(part.block for part in module.modules() if isinstance(part, BlockSparseLinear))
    if block == checkpoint.block:
        return ""
    return f"multiplies blocks of {block}, which hold those of {checkpoint.block}, zeros between included"


@runtime(
    "block-sparse-int8",
    "block-sparse in int8, which changes a few answers",
    devices=("cpu",),
    exact=False,
    unavailable_reason=instruction_sets.int8_unavailable_reason,
    caveat=_int8_caveat,
)
def _block_sparse_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    if (instructions := instruction_sets.best_int8()) is None:
        raise InputError(f"runtime block-sparse-int8: {instruction_sets.int8_unavailable_reason()}")
    block = _supported(instructions, checkpoint, dtype)
    cut = compact.build(checkpoint.model, device, dtype, block)
    return on_cpu.convert(cut, block, instructions)


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
