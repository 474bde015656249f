"""The library pytorch_block_sparse 0.1.2 (huggingface, 2021) as a runtime: float32 and blocks of 32 x 32, on CUDA.

Its ways to make a sparse layer from a dense one do not take a pattern: `BlockSparseLinear(torch_nn_linear=...)` and
`BlockSparseMatrix.from_dense(..., block_count=...)` keep random blocks, `from_dense` without a count keeps all. So
the kept blocks are given to the constructor of `BlockSparseMatrix`, in its own order: each one transposed.
"""

import importlib

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering

from qalib.model import bert, blocks
from qalib.model.blocks import Block
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes import compact
from qalib.runtimes.registry import runtime
from qalib.utils.errors import InputError, one_line

BLOCK = (32, 32)


def unavailable_reason() -> str | None:
    """Why the library cannot be used here, or None if it can: it and its compiled part, which it imports late."""
    try:
        importlib.import_module("pytorch_block_sparse")
        importlib.import_module("block_sparse_native")
    except (ImportError, OSError) as error:
        return (
            f"pytorch_block_sparse cannot be imported ({one_line(error)}); where CUDA_HOME and nvcc are, "
            "pip install --no-build-isolation pytorch_block_sparse==0.1.2"
        )
    return None


class LibraryLinear(nn.Module):
    """A linear layer, shape `(outputs, inputs)`, whose kept blocks the library multiplies."""

    instructions = "pytorch_block_sparse"

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        kept = blocks.mask(weight, BLOCK)
        data = blocks.split(weight, BLOCK)[kept].transpose(1, 2).reshape(-1, BLOCK[1]).contiguous()
        library = importlib.import_module("pytorch_block_sparse")
        self.matrix = library.BlockSparseMatrix(weight.shape, kept, data, BLOCK)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        return self.matrix.reverse_matmul(x, transpose=True) + self.bias


def convert(model: BertForQuestionAnswering, block: Block) -> BertForQuestionAnswering:
    """The model itself, on its device, with the library's matrices in its encoder; empty matrices stay.

    Raises InputError for another type than float32 or other blocks than 32 x 32.
    """
    if block != BLOCK or model.dtype != torch.float32:
        kind = str(model.dtype).removeprefix("torch.")
        raise InputError(f"runtime pytorch-block-sparse: {kind} in blocks of {block}; it has float32 and (32, 32) only")
    return bert.replace_linears(model, LibraryLinear)


@runtime(
    "pytorch-block-sparse",
    "compact, with the kept blocks multiplied by the library of that name (GPU, fp32)",
    devices=("cuda",),
    opt_in=True,
    dtypes=("fp32",),
    unavailable_reason=unavailable_reason,
)
def _pytorch_block_sparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return convert(compact.build(checkpoint.model, device, dtype, checkpoint.block), checkpoint.block)
