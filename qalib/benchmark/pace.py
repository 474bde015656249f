"""Pace: how many multiply-adds a second the block-sparse kernel does, beside the most that the processor can do."""

import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch

from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.block_sparse_linear import BlockSparseLinear
from qalib.utils.errors import InputError
from qalib.utils.timing import interleave

ROUNDS = 3_000_000  # of the kernel's inner loop on each thread: a tenth of a second or less


def by_matrix(
    checkpoint: Checkpoint, batch: int = 16, length: int = 176, repeats: int = 7, progress: bool = True
) -> pd.DataFrame:
    """Time the products of each kind of encoder matrix alone, of all layers in turn, and the inner loop without memory.

    One row a type (fp32, bf16, int8 with bf16 activations; those that the machine has instructions for) and a kind of
    matrix: dtype, instructions, kind, outputs and inputs (of the first layer), density (kept blocks / all of that
    kind), median_seconds (of all layers), round_seconds, gflops (10^9 multiplications and additions a second, on kept
    blocks), peak_gflops (the same of the inner loop on registers, timed in the same rounds) and share_of_peak.
    Raises InputError where the kernel is not compiled.
    """
    if reason := instruction_sets.unavailable_reason():
        raise InputError(f"the kernel has no pace: {reason}")
    frames = [
        _of_type(checkpoint, name, dtype, instructions, batch * length, repeats, progress)
        for name, dtype, instructions in _types(checkpoint)
    ]
    return pd.concat(frames, ignore_index=True)


def _types(checkpoint: Checkpoint) -> list[tuple[str, torch.dtype, str]]:
    best, int8 = instruction_sets.best, instruction_sets.best_int8()
    types = [("fp32", torch.float32, best(checkpoint.block, torch.float32))]
    if (half := best(checkpoint.block, torch.bfloat16)) in instruction_sets.BF16:
        types.append(("bf16", torch.bfloat16, half))
    if int8 and instruction_sets.supports(int8, checkpoint.block, torch.bfloat16):
        types.append(("int8", torch.bfloat16, int8))
    return types


def _of_type(
    checkpoint: Checkpoint, name: str, dtype: torch.dtype, instructions: str, tokens: int, repeats: int, progress: bool
) -> pd.DataFrame:
    kinds: dict[str, list[bert.Matrix]] = {}
    for matrix in bert.matrices(checkpoint.model):
        kinds.setdefault(matrix.kind, []).append(matrix)
    passes: dict[str, Callable[[], object]] = {"peak": lambda: torch.ops.qalib.peak(instructions, ROUNDS)}
    passes |= {
        kind: _product([m.linear for m in matrices], checkpoint.block, dtype, instructions, tokens)
        for kind, matrices in kinds.items()
    }
    timings = interleave(passes, repeats, progress=progress)
    peak = 2e-9 * torch.ops.qalib.peak(instructions, ROUNDS) / timings["peak"].median
    rows = []
    for kind, matrices in kinds.items():
        weights = [matrix.linear.weight for matrix in matrices]
        kept = math.prod(checkpoint.block) * sum(int(blocks.mask(w, checkpoint.block).sum()) for w in weights)
        gflops = 2e-9 * tokens * kept / timings[kind].median
        rows.append(
            {
                "dtype": name,
                "instructions": instructions,
                "kind": kind,
                "outputs": weights[0].shape[0],
                "inputs": weights[0].shape[1],
                "density": kept / sum(w.numel() for w in weights),
                "median_seconds": timings[kind].median,
                "round_seconds": timings[kind].seconds,
                "gflops": gflops,
                "peak_gflops": peak,
                "share_of_peak": gflops / peak,
            }
        )
    return pd.DataFrame(rows)


def _product(
    linears: Sequence[torch.nn.Linear], block: blocks.Block, dtype: torch.dtype, instructions: str, tokens: int
) -> Callable[[], object]:
    """A call that multiplies random activations by each matrix, into memory that is there already."""
    generator = torch.Generator().manual_seed(0)
    products = [BlockSparseLinear(m.weight, m.bias, block, False, dtype, instructions) for m in linears]
    inputs = [torch.randn(tokens, product.inputs, generator=generator).to(dtype) for product in products]
    outputs = [x.new_empty(tokens, product.outputs) for x, product in zip(inputs, products, strict=True)]

    def multiply() -> None:
        with torch.inference_mode():
            for product, x, out in zip(products, inputs, outputs, strict=True):
                product(x, out)

    return multiply
