"""Costs: the parameters, bytes and multiply-adds of what is left."""

import math

import pandas as pd
import torch
from torch import nn

from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.sparsity.counts import heads, per_matrix, unpruned_shape, unpruned_width

PARTS = {
    "word embeddings": ("bert.embeddings.word_embeddings",),
    "other embeddings": ("bert.embeddings",),
    "encoder matrices": tuple(f"{path}.weight" for path in bert.LINEAR_LAYERS.values()),
    "encoder biases and norms": ("bert.encoder",),
    "answer layer": ("qa_outputs",),
}
PACKED_DEFINITION = (
    "bytes per parameter outside the encoder matrices and per weight of their kept blocks, which are formed without "
    "zero rows and columns where that leaves fewer; plus a bit per block, row and column for those kept"
)


def parameters(checkpoint: Checkpoint, matrices: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per part of the model: parameters before pruning, kept (encoder matrices: not zero; elsewhere everything
    in the file), share and kept_share of the respective totals. `matrices` is the table from `per_matrix`, if you have
    it already."""
    matrices = per_matrix(checkpoint) if matrices is None else matrices
    sizes = dict.fromkeys(PARTS, 0)
    kept = dict.fromkeys(PARTS, 0)
    narrow, wide = checkpoint.model.config.hidden_size, unpruned_width(checkpoint)
    for name, parameter in checkpoint.model.named_parameters():
        part = next(p for p, marks in PARTS.items() if name.startswith(marks) or name.endswith(marks))
        encoder = part == "encoder matrices"
        # all others have the encoder's width as their last dimension, except biases within a layer
        widened = not encoder and parameter.shape[-1] == narrow
        sizes[part] += parameter.numel() // narrow * wide if widened else 0 if encoder else parameter.numel()
        kept[part] += 0 if encoder else parameter.numel()
    sizes["encoder matrices"], kept["encoder matrices"] = int(matrices.weights.sum()), int(matrices.kept_weights.sum())
    table = pd.DataFrame({"part": sizes.keys(), "parameters": sizes.values(), "kept": kept.values()})
    table["share"] = table.parameters / table.parameters.sum()
    table["kept_share"] = table.kept / table.kept.sum()
    return table


def file_sizes(checkpoint: Checkpoint, matrices: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per way to store the weights: form, bytes and definition. Only the first counts file headers.

    Packed are the kept blocks, and one bit per block says which those are; see `blocks.pack_tightly`.
    `matrices` is the table from `per_matrix`, if you have it already.
    """
    matrices = per_matrix(checkpoint) if matrices is None else matrices
    parts = parameters(checkpoint, matrices).set_index("part")
    total = int(parts.parameters.sum())
    kept = int(parts.kept.drop("encoder matrices").sum())
    packed = [blocks.pack_tightly(matrix.linear.weight, checkpoint.block) for matrix in bert.matrices(checkpoint.model)]
    in_blocks = sum(matrix["blocks"].numel() for matrix in packed)
    kept += in_blocks
    bitmaps = sum(t.numel() for matrix in packed for name, t in matrix.items() if name != "blocks")
    embeddings = [module.weight for module in checkpoint.model.modules() if isinstance(module, nn.Embedding)]
    quantized = in_blocks + sum(weight.numel() for weight in embeddings)
    rows = in_blocks // checkpoint.block[1] + sum(map(len, embeddings))
    width = unpruned_width(checkpoint)
    size = bert.head_size(checkpoint.model)
    removed = int(heads(checkpoint).called_removed.sum())
    without_heads = total - removed * (4 * width * size + 3 * size)
    name, shards = checkpoint.weight_file.name, len(checkpoint.weight_files) - 1
    stored = f"{name} and its shards, {shards} in all" if shards else f"the weight file itself, {name}"
    return pd.DataFrame(
        [
            ("as stored", checkpoint.file_bytes, stored),
            ("dense fp32", 4 * total, "every parameter at full size, 4 bytes each"),
            ("dense fp16", 2 * total, "every parameter at full size, 2 bytes each"),
            ("heads cut out fp32", 4 * without_heads, "as in 2021: heads called removed cut out, other zeros stored"),
            ("packed fp32", 4 * kept + bitmaps, f"4 {PACKED_DEFINITION}"),
            ("packed fp16", 2 * kept + bitmaps, f"2 {PACKED_DEFINITION}"),
            (
                "packed int8",
                2 * kept - quantized + 4 * rows + bitmaps,
                "as packed fp16, but 1 byte per weight of kept blocks and embeddings, and 4 per row of them for scales",
            ),
        ],
        columns=["form", "bytes", "definition"],
    )


def multiply_adds(checkpoint: Checkpoint, length: int = 384) -> pd.DataFrame:
    """Multiply-adds of one window of `length` tokens by part: dense (zeros multiplied), compact (removable heads and
    neurons cut out) and sparse (kept blocks of what compact leaves).

    Counted: encoder matrices, the two attention products (2 * length² * head size per head), the answer layer.
    """
    config = checkpoint.model.config
    size = bert.head_size(checkpoint.model)
    rows = {part: [0, 0, 0] for part in ("encoder matrices", "attention products", "answer layer")}
    for layer in bert.layers(checkpoint.model):
        heads_left = ~bert.heads_removable(layer, config.num_attention_heads)
        head_rows = heads_left.repeat_interleave(size)
        neurons_left = ~bert.neurons_removable(layer)
        everything = torch.ones(config.hidden_size, dtype=torch.bool)
        left = {kind: (head_rows, everything) for kind in ("query", "key", "value")}
        left |= {"attention output": (everything, head_rows)}
        left |= {"FFN in": (neurons_left, everything), "FFN out": (everything, neurons_left)}
        for kind in bert.LINEAR_LAYERS:
            weight = bert.linear(layer, kind).weight.detach()
            out_left, in_left = left[kind]
            kept = blocks.expand(blocks.mask(weight, checkpoint.block), checkpoint.block)
            rows["encoder matrices"][0] += math.prod(unpruned_shape(checkpoint, kind)) * length
            rows["encoder matrices"][1] += int(out_left.sum()) * int(in_left.sum()) * length
            rows["encoder matrices"][2] += int((kept & out_left[:, None] & in_left).sum()) * length
        products = [2 * length * length * size * n for n in (len(heads_left), int(heads_left.sum()))]
        rows["attention products"] = [
            a + b for a, b in zip(rows["attention products"], [*products, products[1]], strict=True)
        ]
    rows["answer layer"] = [2 * length * width for width in (unpruned_width(checkpoint), *[config.hidden_size] * 2)]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["dense", "compact", "sparse"])
    return table.rename_axis("part").reset_index()
