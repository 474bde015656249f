"""A block-sparse linear layer that learns: parameters, gradients and optimizer states exist for kept blocks only.

It takes the place of nn.Linear in any model, as BlockSparseLinear of pytorch_block_sparse does on a GPU
(github.com/huggingface/pytorch_block_sparse), and computes what the dense layer with a masked weight does.

>>> dense = nn.Linear(64, 32)
>>> kept = torch.tensor([[True, False]])  # blocks of 32x32: the first half of the inputs
>>> layer = TrainableBlockSparseLinear.from_dense(dense, kept)
>>> layer.values.shape
torch.Size([1, 32, 32])
>>> y = layer(torch.randn(8, 64))
>>> y.sum().backward()
>>> layer.values.grad.shape
torch.Size([1, 32, 32])
>>> layer.to_dense().weight[:, 32:].any()
tensor(False)
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.runtimes.cpu.instruction_sets import TORCH
from qalib.runtimes.cpu.pattern import BlockPattern
from qalib.utils.errors import InputError


class _Product(torch.autograd.Function):
    """x W^T + bias of a weight's kept blocks, and its gradients, by the compiled operators."""

    @staticmethod
    def forward(ctx, x: Tensor, values: Tensor, bias: Tensor | None, pattern: BlockPattern) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.pattern = pattern
        return pattern.multiply(x, values, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, values), pattern = ctx.saved_tensors, ctx.pattern
        dx = pattern.multiply(dy, values, None, transposed=True) if ctx.needs_input_grad[0] else None
        dw = pattern.weight_gradient(x, dy).to(values.dtype) if ctx.needs_input_grad[1] else None
        db = dy.flatten(0, -2).sum(0, dtype=torch.float32).to(values.dtype) if ctx.needs_input_grad[2] else None
        return dx, dw, db, None


class TrainableBlockSparseLinear(nn.Module):
    """y = x W^T + b, where only the kept blocks of W exist: the parameter `values`, shape `(blocks, height, width)`.

    Args:
        in_features, out_features, bias, device, dtype: As nn.Linear's.
        kept: Which blocks are kept: bool, shape `(out_features / height, in_features / width)`.
        block: Height and width of a block.

    x is of shape `(..., in_features)`. On a CPU, float32 and bfloat16 (under autocast too) are multiplied by the
    compiled operators; where those cannot, or a dense product is faster, by torch (see `instructions`). Blocks are in
    row-major order of the grid. Raises InputError for a mask or a block that does not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kept: Tensor,
        block: Block = (32, 32),
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        grid = (out_features // block[0], in_features // block[1])
        if tuple(kept.shape) != grid or (grid[0] * block[0], grid[1] * block[1]) != (out_features, in_features):
            raise InputError(
                f"kept must have one entry for each {block[0]}x{block[1]} block of {out_features}x{in_features}, "
                f"not shape {tuple(kept.shape)}"
            )
        self.in_features, self.out_features, self.block = in_features, out_features, block
        self.kept: Tensor
        self.register_buffer("kept", kept.detach().bool().clone().to(device))
        self.pattern = BlockPattern(self.kept, block)
        values = torch.empty(int(kept.sum()), *block, device=device, dtype=dtype)
        self.values = nn.Parameter(values)
        self.bias = nn.Parameter(values.new_empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters, as nn.Linear's for as many inputs as an output has on average."""
        inputs = self.pattern.density * self.in_features
        bound = 1 / math.sqrt(inputs) if inputs else 0.0
        for parameter in (self.values, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, kept: Tensor | None = None, block: Block = (32, 32)
    ) -> "TrainableBlockSparseLinear":
        """A layer with the weights of a dense one in the kept blocks; by default, those that are not zero."""
        weight = linear.weight.detach()
        try:
            kept = blocks.mask(weight, block) if kept is None else kept.bool().to(weight.device)
        except ValueError as error:
            raise InputError(str(error)) from None
        layer = cls(weight.shape[1], weight.shape[0], kept, block, False, weight.device, weight.dtype)
        layer.values.data = blocks.split(weight, block)[kept].contiguous()
        layer.values.requires_grad_(linear.weight.requires_grad)
        if linear.bias is not None:
            layer.bias = nn.Parameter(linear.bias.detach().clone(), linear.bias.requires_grad)
        return layer.train(linear.training)

    def to_dense(self) -> nn.Linear:
        """A dense layer with the same weights, and zeros where no block is kept."""
        linear = nn.Linear(1, 1, device="meta")  # nn.Linear warns when it has to initialise an empty weight
        linear.out_features, linear.in_features = self.out_features, self.in_features
        linear.weight = nn.Parameter(self.weight.detach(), self.values.requires_grad)
        bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        linear.register_parameter("bias", bias)
        return linear.train(self.training)

    @property
    def weight(self) -> Tensor:
        """The dense weight, shape `(out_features, in_features)`, with zeros where no block is kept."""
        tiles = self.values.new_zeros(*self.kept.shape, *self.block)
        return blocks.join(tiles.index_put(self.kept.nonzero(as_tuple=True), self.values))

    def instructions(self, x: Tensor) -> str:
        """What multiplies x: `torch`, or the instruction set of the compiled operators."""
        on_cpu = x.device.type == self.values.device.type == "cpu"
        pays = on_cpu and self.values.dtype != torch.float64 and self.pattern.pays(x.dtype)
        return self.pattern.instructions(x.dtype) if pays else TORCH

    @torch.compiler.disable(reason="block-sparse products are not compiled: torch.compile must not need fullgraph")
    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape `(..., in_features)` to `(..., out_features)`; torch.compile compiles what is around it."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if self.instructions(x) == TORCH:
            return functional.linear(x, self.weight, self.bias)
        return _Product.apply(x, self.values, self.bias, self.pattern)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        kept = state_dict.get(f"{prefix}kept")
        if kept is not None and not torch.equal(kept.cpu(), self.pattern.kept):
            errors.append(f"{prefix}kept: the blocks kept there are not those of this layer")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def extra_repr(self) -> str:
        """What `print` shows."""
        bias, density = self.bias is not None, self.pattern.density
        return f"{self.in_features}, {self.out_features}, block={self.block}, density={density:.3g}, bias={bias}"
