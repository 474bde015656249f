"""torch's own block-sparse matrices (BSR), whose products on a GPU are a Triton kernel of torch's, tuned there."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForQuestionAnswering

from qalib.model import bert
from qalib.model.blocks import Block
from qalib.runtimes import panels, tuning
from qalib.runtimes.tuning import Time
from qalib.utils.errors import InputError

TABLE = tuning.FOLDER / "torch-bsr.json"
TOKENS = 4096  # the tokens with which it is tuned


@dataclass(frozen=True)
class Meta:
    """What torch's kernel can be told: tokens a program, block rows that go together, warps, steps loaded ahead."""

    columns: int
    group: int = 4
    warps: int = 4
    stages: int = 4

    def as_torch(self, tokens: int) -> dict[str, int]:
        """As `bsr_dense_addmm(meta=...)` takes it, for a number of tokens that `columns` divides."""
        return {
            "SPLIT_N": tokens // self.columns,
            "GROUP_SIZE_ROW": self.group,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


METAS = [
    Meta(columns, group, warps, stages)
    for columns, warps in ((64, 4), (128, 4), (128, 8), (256, 8))
    for group in (1, 4)
    for stages in (4, 5, 6)  # with fewer what a block needs is not loaded ahead
]


class BsrLinear(nn.Module):
    """A linear layer, shape `(outputs, inputs)`, whose weight is a torch.sparse BSR tensor in blocks of `block`."""

    def __init__(self, linear: nn.Linear, block: Block):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to_sparse_bsr(block))
        self.register_buffer("bias", linear.bias.detach())
        self.meta = Meta(columns=block[0])  # torch's, where nothing is tuned

    @property
    def instructions(self) -> str:
        """What multiplies: torch.sparse, and on a GPU with tokens x rows x warps x stages."""
        return "torch.sparse" + " {columns}x{group}x{warps}x{stages}".format(**asdict(self.meta)) * self.bias.is_cuda

    def forward(self, x: Tensor) -> Tensor:
        """`(..., inputs)` to `(..., outputs)`."""
        if x.is_cuda:
            return self.product(x)
        with torch.inference_mode(False), torch.no_grad():  # on a CPU torch.sparse takes no inference tensors
            return functional.linear(x.clone() if x.is_inference() else x, self.weight, self.bias)

    def product(self, x: Tensor) -> Tensor:
        """The same by torch's kernel, which takes whole tiles of tokens: zeros are added to the last, and cut off."""
        from torch.sparse._triton_ops import bsr_dense_addmm

        x = x.contiguous()
        tokens, outputs = x.numel() // x.shape[-1], len(self.bias)
        whole = -(-tokens // self.meta.columns) * self.meta.columns
        dense = x.view(tokens, -1)
        dense = functional.pad(dense, (0, 0, 0, whole - tokens)) if whole > tokens else dense
        out = x.new_empty(whole, outputs)  # the kernel writes it transposed: nothing is copied
        bias = self.bias[:, None].expand(-1, whole)
        bsr_dense_addmm(bias, self.weight, dense.T, meta=self.meta.as_torch(whole), out=out.T)
        return out[:tokens].view(*x.shape[:-1], outputs)


def tune(linear: BsrLinear, time: Time = tuning.milliseconds) -> Meta:
    """The fastest of METAS for a layer on the GPU at hand. Raises InputError if none of them works."""
    x = torch.randn(TOKENS, linear.weight.shape[1], device=linear.bias.device).to(linear.bias.dtype)
    expected = functional.linear(x, linear.weight.to_dense(), linear.bias).double()

    def make(meta: Meta) -> BsrLinear:
        linear.meta = meta
        return linear

    found = tuning.fastest(make, METAS, x, expected, time)
    if found is None:
        raise InputError("runtime torch-bsr: none of the sizes of torch's kernel works here")
    return found


def tuned(linear: BsrLinear, table: Path = TABLE, time: Time = tuning.milliseconds) -> Meta:
    """The same from a table, a JSON file by card, block and type, where it is kept once it was found."""
    values = linear.weight.values()
    kind = str(values.dtype).removeprefix("torch.")
    key = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {values.shape[1]}x{values.shape[2]}, {kind}"
    return Meta(**tuning.cached(table, key, lambda: asdict(tune(linear, time))))


def convert(model: BertForQuestionAnswering, block: Block) -> BertForQuestionAnswering:
    """The model itself, on its device and in its type, with BSR weights in its encoder; empty matrices stay.

    On a GPU the kernel is tuned with the fullest matrix. Raises InputError for blocks that it cannot multiply there.
    """
    if model.device.type == "cuda":
        panels.check(block)
    bert.replace_linears(model, lambda linear: BsrLinear(linear, block))
    layers = [part for part in model.modules() if isinstance(part, BsrLinear)]
    if model.device.type == "cuda" and layers:
        meta = tuned(max(layers, key=lambda layer: layer.weight.values().numel()))
        for layer in layers:
            layer.meta = meta
    return model
