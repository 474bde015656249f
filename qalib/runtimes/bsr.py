"""torch's own block-sparse matrices (BSR), whose products on a GPU are a Triton kernel of torch's, tuned there."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForQuestionAnswering

from qalib.model import bert
from qalib.model.blocks import Block
from qalib.runtimes import triton_blocks
from qalib.utils.files import read_json, write_json

TABLE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qalib" / "torch-bsr.json"
TOKENS = 4096  # the tokens with which it is tuned


@dataclass(frozen=True)
class Meta:
    """What torch's kernel can be told: tokens a program, block rows that go together, warps, steps loaded ahead."""

    columns: int
    group: int = 4
    warps: int = 4
    stages: int = 1

    def as_torch(self, tokens: int) -> dict[str, int]:
        """As `bsr_dense_addmm(meta=...)` takes it, for a number of tokens that `columns` divides."""
        return {
            "SPLIT_N": tokens // self.columns,
            "GROUP_SIZE_ROW": self.group,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


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
        with torch.inference_mode(False), torch.no_grad():  # torch.sparse does not work with inference tensors
            x = x.clone() if x.is_inference() else x
            return self.product(x) if x.is_cuda else functional.linear(x, self.weight, self.bias)

    def product(self, x: Tensor) -> Tensor:
        """The same by torch's kernel, which takes whole tiles of tokens: zeros are added to the last, and cut off."""
        from torch.sparse._triton_ops import bsr_dense_addmm

        tokens = x.numel() // x.shape[-1]
        whole = -(-tokens // self.meta.columns) * self.meta.columns
        dense = functional.pad(x.reshape(tokens, -1), (0, 0, 0, whole - tokens)).T
        bias = self.bias[:, None].expand(-1, whole)
        found = bsr_dense_addmm(bias, self.weight, dense, meta=self.meta.as_torch(whole))
        return found.T[:tokens].reshape(*x.shape[:-1], -1)


def tune(linear: BsrLinear) -> Meta:
    """The fastest parameters of torch's kernel for a layer on the GPU at hand; takes minutes."""
    from torch.sparse._triton_ops_meta import tune_bsr_dense_addmm

    dense = linear.weight.values().new_ones(TOKENS, linear.weight.shape[1]).T
    found = tune_bsr_dense_addmm(linear.bias[:, None].expand(-1, TOKENS), linear.weight, dense)
    return Meta(TOKENS // found["SPLIT_N"], found["GROUP_SIZE_ROW"], found["num_warps"], found["num_stages"])


def tuned(linear: BsrLinear, table: Path = TABLE) -> Meta:
    """The same from a table, a JSON file by card, block and type, where it is kept once it was found."""
    known = read_json(table) if table.exists() else {}
    values = linear.weight.values()
    kind = str(values.dtype).removeprefix("torch.")
    key = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {values.shape[1]}x{values.shape[2]}, {kind}"
    if key not in known:
        known[key] = asdict(tune(linear))
        write_json(table, known)
    return Meta(**known[key])


def convert(model: BertForQuestionAnswering, block: Block) -> BertForQuestionAnswering:
    """The model itself, on its device and in its type, with BSR weights in its encoder; empty matrices stay.

    On a GPU the kernel is tuned with the fullest matrix. Raises InputError for blocks that it cannot multiply there.
    """
    if model.device.type == "cuda":
        triton_blocks.check(block)
    bert.replace(model, lambda linear: BsrLinear(linear, block))
    layers = [part for part in model.modules() if isinstance(part, BsrLinear)]
    if model.device.type == "cuda" and layers:
        meta = tuned(max(layers, key=lambda layer: layer.weight.values().numel()))
        for layer in layers:
            layer.meta = meta
    return model
