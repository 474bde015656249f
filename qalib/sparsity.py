"""Sparsity: counting what is left of a checkpoint.

Densities are over unpruned sizes: nonzero weights of the encoder matrices / all of them. Where pruning was not in
blocks, block density differs: a block is kept if any of its weights is not zero. Cutting heads or neurons out of the
file changes none of these.
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from qalib.model import bert, blocks, granularity
from qalib.model.checkpoint import Checkpoint
from qalib.utils.quantity import measure

PARTS = {
    "word embeddings": ("bert.embeddings.word_embeddings",),
    "other embeddings": ("bert.embeddings",),
    "encoder matrices": tuple(f"{path}.weight" for path in bert.LINEAR_LAYERS.values()),
    "encoder biases and norms": ("bert.encoder",),
    "answer layer": ("qa_outputs",),
}


def per_matrix(checkpoint: Checkpoint) -> pd.DataFrame:
    """One row per encoder matrix: layer, kind, granularity (the unit of pruning of its kind), rows, columns,
    weights, kept_weights (not zero), density, blocks, kept_blocks, block_density, empty_rows, empty_columns.

    Rows, columns and weights are counted before pruning; blocks are those in which the checkpoint is stored.
    """
    table = []
    shapes = granularity.of_model(checkpoint.model)
    for matrix in bert.matrices(checkpoint.model):
        weight = matrix.linear.weight.detach()
        zero = weight == 0
        kept = blocks.mask(weight, checkpoint.block)
        left = weight.numel() - int(zero.sum())
        rows, columns = unpruned_shape(checkpoint, matrix.kind)
        table.append(
            {
                "layer": matrix.layer,
                "kind": matrix.kind,
                "granularity": str(shapes[matrix.kind]),
                "rows": rows,
                "columns": columns,
                "weights": rows * columns,
                "kept_weights": left,
                "density": left / (rows * columns),
                "blocks": kept.numel(),
                "kept_blocks": int(kept.sum()),
                "block_density": kept.sum().item() / kept.numel(),
                "empty_rows": int(zero.all(1).sum()) + rows - weight.shape[0],
                "empty_columns": int(zero.all(0).sum()) + columns - weight.shape[1],
            }
        )
    return pd.DataFrame(table)


def unpruned_shape(checkpoint: Checkpoint, kind: str) -> tuple[int, int]:
    """Rows and columns of a kind of matrix before pruning, even if the whole encoder was made narrower."""
    config = checkpoint.model.config
    width = _unpruned_width(checkpoint)
    inner = config.intermediate_size
    return {"FFN in": (inner, width), "FFN out": (width, inner)}.get(kind, (width, width))


def _unpruned_width(checkpoint: Checkpoint) -> int:
    return checkpoint.model.config.num_attention_heads * bert.head_size(checkpoint.model)


def grouped(matrices: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table of `per_matrix` summed by `layer` or `kind` (in its own order), with the densities of each group."""
    counted = ["weights", "kept_weights", "blocks", "kept_blocks"]
    sums = matrices.groupby(column, sort=False)[counted].sum().reset_index()
    if column == "kind":
        sums.insert(1, "granularity", matrices.groupby(column, sort=False).granularity.first().to_numpy())
    return sums.assign(density=sums.kept_weights / sums.weights, block_density=sums.kept_blocks / sums.blocks)


def block_misfits(kinds: pd.DataFrame, block: blocks.Block) -> list[str]:
    """The kinds of matrix, from `grouped`, that were not pruned in whole blocks: their kept blocks contain zeros.

    Strays do not count, see `granularity`.
    """
    area = block[0] * block[1]
    zeros = kinds.kept_blocks * area - kinds.kept_weights
    return list(kinds.kind[zeros > granularity.STRAY * kinds.blocks * area])


def block_masks(checkpoint: Checkpoint, block: blocks.Block | None = None) -> dict[tuple[int, str], torch.Tensor]:
    """The block mask of every encoder matrix by `(layer, kind)`: bool, shape `(rows/height, columns/width)`.

    Blocks are the checkpoint's unless given.
    """
    return {
        (m.layer, m.kind): blocks.mask(m.linear.weight.detach(), block or checkpoint.block)
        for m in bert.matrices(checkpoint.model)
    }


def fills(checkpoint: Checkpoint) -> dict[tuple[int, str], torch.Tensor]:
    """For every encoder matrix, by `(layer, kind)`, the share of nonzero weights in each block, from 0 to 1.

    Shape `(rows/height, columns/width)`, in the checkpoint's blocks. All are 0 or 1 where pruning was in blocks.
    """
    return {
        (m.layer, m.kind): (blocks.split(m.linear.weight.detach(), checkpoint.block) != 0).float().mean((-1, -2))
        for m in bert.matrices(checkpoint.model)
    }


def density(checkpoint: Checkpoint, block: blocks.Block | None = None) -> float:
    """Kept blocks / all blocks of the encoder matrices, between 0 and 1; a `block` of (1, 1) counts single weights."""
    kept = block_masks(checkpoint, block).values()
    return sum(int(mask.sum()) for mask in kept) / sum(mask.numel() for mask in kept)


def heads(checkpoint: Checkpoint) -> pd.DataFrame:
    """One row per attention head: layer, head, cut_out (absent from the file), called_removed (the published cards'
    rule) and removable (can go without changing the output); see `bert` for the two rules."""
    count = checkpoint.model.config.num_attention_heads
    table = []
    for number, layer in enumerate(bert.layers(checkpoint.model)):
        called = bert.heads_called_removed(layer, count)
        removable = bert.heads_removable(layer, count)
        for head in range(count):
            cut = head in checkpoint.pruned_heads.get(number, [])
            table.append((number, head, cut, bool(called[head]), bool(removable[head])))
    return pd.DataFrame(table, columns=["layer", "head", "cut_out", "called_removed", "removable"])


def neurons(checkpoint: Checkpoint) -> pd.DataFrame:
    """One row per layer: its FFN neurons, and how many of them can go without changing the output."""
    removable = [int(bert.neurons_removable(layer).sum()) for layer in bert.layers(checkpoint.model)]
    size = checkpoint.model.config.intermediate_size
    return pd.DataFrame({"layer": range(len(removable)), "neurons": size, "removable": removable})


def parameters(checkpoint: Checkpoint, matrices: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per part of the model: parameters before pruning, kept (encoder matrices: not zero; elsewhere everything
    in the file), share and kept_share of the respective totals. `matrices` is the table from `per_matrix`, if you have
    it already."""
    matrices = per_matrix(checkpoint) if matrices is None else matrices
    sizes = dict.fromkeys(PARTS, 0)
    kept = dict.fromkeys(PARTS, 0)
    narrow, wide = checkpoint.model.config.hidden_size, _unpruned_width(checkpoint)
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

    `matrices` is the table from `per_matrix`, if you have it already.
    """
    matrices = per_matrix(checkpoint) if matrices is None else matrices
    parts = parameters(checkpoint, matrices).set_index("part")
    total = int(parts.parameters.sum())
    kept = int(parts.kept.drop("encoder matrices").sum())
    kept += int(matrices.kept_blocks.sum()) * checkpoint.block[0] * checkpoint.block[1]
    bitmaps = sum(-(-count // 8) for count in matrices.blocks)
    quantized = int(matrices.kept_blocks.sum()) * checkpoint.block[0] * checkpoint.block[1]
    rows = int(matrices.kept_blocks.sum()) * checkpoint.block[0]
    for module in checkpoint.model.modules():
        if isinstance(module, nn.Embedding):
            quantized, rows = quantized + module.weight.numel(), rows + module.num_embeddings
    width = _unpruned_width(checkpoint)
    size = bert.head_size(checkpoint.model)
    removed = int(heads(checkpoint).called_removed.sum())
    without_heads = total - removed * (4 * width * size + 3 * size)
    return pd.DataFrame(
        [
            ("as stored", checkpoint.file_bytes, f"the weight file itself, {checkpoint.weight_file.name}"),
            ("dense fp32", 4 * total, "every parameter at full size, 4 bytes each"),
            ("dense fp16", 2 * total, "every parameter at full size, 2 bytes each"),
            ("heads cut out fp32", 4 * without_heads, "as in 2021: heads called removed cut out, other zeros stored"),
            ("packed fp32", 4 * kept + bitmaps, "kept blocks, 4 bytes per parameter, plus one bit per block"),
            ("packed fp16", 2 * kept + bitmaps, "kept blocks, 2 bytes per parameter, plus one bit per block"),
            (
                "packed int8",
                2 * kept - quantized + 4 * rows + bitmaps,
                "kept blocks and embeddings, 1 byte per parameter plus 4 per row for its scale; rest as packed fp16",
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
        for kind, path in bert.LINEAR_LAYERS.items():
            weight = layer.get_submodule(path).weight.detach()
            out_left, in_left = left[kind]
            kept = blocks.expand(blocks.mask(weight, checkpoint.block), checkpoint.block)
            rows["encoder matrices"][0] += math.prod(unpruned_shape(checkpoint, kind)) * length
            rows["encoder matrices"][1] += int(out_left.sum()) * int(in_left.sum()) * length
            rows["encoder matrices"][2] += int((kept & out_left[:, None] & in_left).sum()) * length
        products = [2 * length * length * size * n for n in (len(heads_left), int(heads_left.sum()))]
        rows["attention products"] = [
            a + b for a, b in zip(rows["attention products"], [*products, products[1]], strict=True)
        ]
    rows["answer layer"] = [config.hidden_size * 2 * length] * 3
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["dense", "compact", "sparse"])
    return table.rename_axis("part").reset_index()


def tables(checkpoint: Checkpoint) -> dict[str, pd.DataFrame]:
    """All tables of this module, by name."""
    matrices = per_matrix(checkpoint)
    return {
        "matrices": matrices,
        "layers": grouped(matrices, "layer"),
        "kinds": grouped(matrices, "kind"),
        "heads": heads(checkpoint),
        "neurons": neurons(checkpoint),
        "parameters": parameters(checkpoint, matrices),
        "file_sizes": file_sizes(checkpoint, matrices),
        "multiply_adds": multiply_adds(checkpoint),
    }


@dataclass(frozen=True)
class Summary:
    """The headline figures of a checkpoint."""

    granularity: str = measure("text", "unit of pruning in each kind of matrix, told from the positions of the zeros")
    block_misfits: str = measure(
        "text", "kinds of matrix that were not pruned in blocks of the size the checkpoint is stored in"
    )
    linear_density_percent: float = measure(
        "%", "weights that are not zero / all weights of the encoder matrices at unpruned size"
    )
    blocks: int = measure("count", "blocks of the encoder matrices at full size")
    kept_blocks: int = measure("count", "blocks with a weight that is not zero")
    block_density_percent: float = measure(
        "%", "kept / all blocks; more than the linear density where pruning was not in blocks"
    )
    overall_density_percent: float = measure(
        "%", "kept / all parameters of the question-answering model; outside the encoder matrices all count as kept"
    )
    overall_density_with_pooler_percent: float = measure(
        "%", "the same with the pooler, which BERT has but a question-answering model lacks, counted on both sides"
    )
    heads: int = measure("count", "attention heads, unpruned")
    heads_left: int = measure("count", "attention heads that the published cards' rule does not call removed")
    heads_called_removed: int = measure(
        "count", "heads whose query, key or value weights are all zero (the published cards' rule)"
    )
    heads_called_removed_percent: float = measure("%", "heads called removed / all heads")
    heads_removable: int = measure(
        "count", "heads that can go without changing the output: value weights or output columns all zero"
    )
    neurons: int = measure("count", "FFN neurons, unpruned")
    neurons_removable: int = measure(
        "count", "neurons that can go without changing the output: row of FFN in or column of FFN out all zero"
    )
    parameters: int = measure("count", "parameters at unpruned size")
    kept_parameters: int = measure(
        "count", "parameters outside the encoder matrices, plus the nonzero weights of the encoder matrices"
    )
    embeddings_percent: float = measure("%", "embeddings' share of the kept parameters")
    file_bytes: int = measure("bytes", "size of the weight file")
    dense_fp32_bytes: int = measure("bytes", "4 bytes per parameter at unpruned size")
    heads_cut_out_fp32_bytes: int = measure(
        "bytes", "4 bytes per parameter with the heads called removed cut out and other zeros stored, as in 2021"
    )
    packed_fp16_bytes: int = measure("bytes", "2 bytes per parameter outside zero blocks, plus one bit per block")
    multiply_adds_dense: int = measure(
        "multiply-adds", "one window of 384 tokens: encoder matrices, attention products, answer layer"
    )
    multiply_adds_sparse: int = measure(
        "multiply-adds", "the same with kept blocks only, and without heads and neurons that can go"
    )


def summary(checkpoint: Checkpoint, counted: dict[str, pd.DataFrame] | None = None) -> Summary:
    """The headline figures; pass what `tables` returned, if you have it already, to save counting again."""
    counted = tables(checkpoint) if counted is None else counted
    matrices = counted["matrices"]
    parts = counted["parameters"]
    all_heads = counted["heads"]
    per_layer = counted["neurons"]
    work = counted["multiply_adds"]
    sizes, kinds = counted["file_sizes"].set_index("form").bytes, counted["kinds"]
    total = int(parts.parameters.sum())
    kept = int(parts.kept.sum())
    called = int(all_heads.called_removed.sum())
    hidden = _unpruned_width(checkpoint)
    pooler = hidden * hidden + hidden
    return Summary(
        granularity=granularity.in_words(dict(zip(kinds.kind, kinds.granularity, strict=True))),
        block_misfits=", ".join(block_misfits(kinds, checkpoint.block)) or "none",
        linear_density_percent=float(100 * matrices.kept_weights.sum() / matrices.weights.sum()),
        blocks=int(matrices.blocks.sum()),
        kept_blocks=int(matrices.kept_blocks.sum()),
        block_density_percent=float(100 * matrices.kept_blocks.sum() / matrices.blocks.sum()),
        overall_density_percent=100 * kept / total,
        overall_density_with_pooler_percent=100 * (kept + pooler) / (total + pooler),
        heads=len(all_heads),
        heads_left=len(all_heads) - called,
        heads_called_removed=called,
        heads_called_removed_percent=100 * called / len(all_heads),
        heads_removable=int(all_heads.removable.sum()),
        neurons=int(per_layer.neurons.sum()),
        neurons_removable=int(per_layer.removable.sum()),
        parameters=total,
        kept_parameters=kept,
        embeddings_percent=float(100 * parts[parts.part.str.contains("embeddings")].kept.sum() / kept),
        file_bytes=checkpoint.file_bytes,
        dense_fp32_bytes=int(sizes["dense fp32"]),
        heads_cut_out_fp32_bytes=int(sizes["heads cut out fp32"]),
        packed_fp16_bytes=int(sizes["packed fp16"]),
        multiply_adds_dense=int(work["dense"].sum()),
        multiply_adds_sparse=int(work["sparse"].sum()),
    )
