"""torch's own block-sparse matrices (BSR), whose products on a GPU are a Triton kernel of torch's."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForQuestionAnswering

from qalib import encoder
from qalib.blocks import Block


class BsrLinear(nn.Module):
    """A linear layer, shape `(outputs, inputs)`, whose weight is a torch.sparse BSR tensor in blocks of `block`."""

    def __init__(self, linear: nn.Linear, block: Block):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to_sparse_bsr(block))
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        with torch.inference_mode(False), torch.no_grad():  # torch.sparse does not work with inference tensors
            return functional.linear(x.clone() if x.is_inference() else x, self.weight, self.bias)


def convert(model: BertForQuestionAnswering, block: Block) -> BertForQuestionAnswering:
    """The model itself, on its device and in its type, with BSR weights in its encoder; empty matrices stay."""
    for matrix in encoder.matrices(model):
        if matrix.linear.weight.any():
            owner, _, name = matrix.name.rpartition(".")
            setattr(model.get_submodule(owner), name, BsrLinear(matrix.linear, block))
    return model
