"""A graph that can be pruned while it runs: one mask per encoder matrix is an input, a number a block.

    mask.LAYER.KIND    float32    (rows/height, columns/width), the rows and columns of blocks of the matrix

A block is multiplied by its number before the matrix is used, so that 0 prunes it and 1 leaves it. Weights are stored
as in the packed form: kept blocks only, in int8 with a scale per row where the model was packed so, which loses
nothing, else in float16; and so are the embeddings.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from qalib.model import bert, blocks, quantization
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export import onnx_graph
from qalib.runtimes.export.onnx_graph import AXES, INPUTS


def stored(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """A weight as int8 values and the scales of its rows if it was made from such, else in float16, and None."""
    weight = weight.detach()
    values, scales = quantization.quantize(weight)
    if torch.allclose(quantization.dequantize(values, scales), weight, rtol=1e-5, atol=0):
        return values, scales
    return weight.half(), None


class MaskedLinear(nn.Module):
    """A linear layer, kept blocks only, whose buffer `mask` says which of them are used.

    The weight is laid out as the product takes it, transposed, `(columns/width, width, rows/height, height)`: then all
    that a mask costs is a multiplication, as a runtime works out the layout once, when it loads the graph.
    """

    values: Tensor
    scales: Tensor | None
    places: Tensor
    mask: Tensor

    def __init__(self, linear: nn.Linear, block: blocks.Block):
        super().__init__()
        kept, weight = blocks.mask(linear.weight, block), linear.weight.detach()
        self.block, self.bias = block, linear.bias
        values, scales = stored(blocks.split(weight, block)[kept])
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.register_buffer("places", kept.flatten().nonzero()[:, 0])
        self.register_buffer("mask", torch.ones(kept.shape))

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape `(..., columns)` to `(..., rows)`, float32."""
        count, (height, width) = self.mask.numel(), self.block
        tiles = self.values.new_zeros(count, height, width).index_put((self.places,), self.values).float()
        if self.scales is not None:
            tiles = tiles * self.scales.new_zeros(count, height).index_put((self.places,), self.scales)[..., None]
        tiles = tiles.unflatten(0, self.mask.shape).permute(1, 3, 0, 2)
        weight = tiles * self.mask.T[:, None, :, None]
        return x @ weight.flatten(2).flatten(0, 1) + self.bias


class StoredEmbedding(nn.Module):
    """An embedding stored in int8 or float16 (see `stored`) whose rows are float32."""

    weight: Tensor
    scales: Tensor | None

    def __init__(self, weight: Tensor):
        super().__init__()
        values, scales = stored(weight)
        self.register_buffer("weight", values)
        self.register_buffer("scales", scales)

    def forward(self, ids: Tensor) -> Tensor:
        """Numbers of any shape to rows, shape `(..., columns)`."""
        rows = self.weight[ids].float()
        return rows if self.scales is None else rows * self.scales[ids][..., None]


class Masked(nn.Module):
    """A checkpoint's model with the masks of its encoder matrices as inputs, in the order of `bert.matrices`.

    The checkpoint's model is changed for it.
    """

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        model, matrices = checkpoint.model, bert.matrices(checkpoint.model)
        for matrix in matrices:
            model.set_submodule(matrix.name, MaskedLinear(matrix.linear, checkpoint.block))
        for name, part in list(model.bert.embeddings.named_children()):
            if isinstance(part, nn.Embedding):
                setattr(model.bert.embeddings, name, StoredEmbedding(part.weight))
        self.logits = onnx_graph.Logits(model)
        self.names = [mask_name(matrix) for matrix in matrices]
        self.places = [f"model.{matrix.name}.mask" for matrix in matrices]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, masks: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Token numbers of shape `(batch, length)` and masks to start and end logits."""
        given = dict(zip(self.places, masks, strict=True))
        return torch.func.functional_call(self.logits, given, (input_ids, attention_mask, token_type_ids))

    def all_kept(self) -> list[Tensor]:
        """Masks that prune nothing."""
        return [torch.ones_like(self.logits.get_buffer(place)) for place in self.places]


def mask_name(matrix: bert.Matrix) -> str:
    """What the mask of an encoder matrix is called."""
    return f"mask.{matrix.layer}.{matrix.kind.replace(' ', '_')}"


def write(checkpoint: Checkpoint, out: Path) -> Path:
    """Write the graph of a checkpoint, loaded for the purpose (see `Masked`)."""
    module = Masked(checkpoint)
    masks = module.all_kept()
    axes = [AXES] * len(INPUTS) + [[None] * len(masks)]
    return onnx_graph.export(module, (*onnx_graph.example(), masks), out, [*INPUTS, *module.names], axes)
