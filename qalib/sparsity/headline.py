"""The headline figures of a checkpoint, and the tables that they come from."""

from dataclasses import dataclass

import pandas as pd

from qalib.model import granularity
from qalib.model.checkpoint import Checkpoint
from qalib.sparsity.costs import PACKED_DEFINITION, file_sizes, multiply_adds, parameters
from qalib.sparsity.counts import block_misfits, grouped, heads, neurons, per_matrix, unpruned_width
from qalib.utils.quantity import measure


def tables(checkpoint: Checkpoint) -> dict[str, pd.DataFrame]:
    """All tables of this subpackage, by name."""
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
    block_misfits: str | None = measure(
        "text",
        "kinds of matrix that were not pruned in blocks of the size the checkpoint is stored in",
        none="every kind of matrix was pruned in such blocks",
    )
    linear_density_percent: float = measure(
        "%", "weights that are not zero / all weights of the encoder matrices at unpruned size"
    )
    blocks: int = measure("count", "blocks of the encoder matrices with all heads and neurons, at the encoder's width")
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
    embeddings_percent: float = measure("%", "share of the embeddings, with their norm, in the kept parameters")
    file_bytes: int = measure("bytes", "size of the weight file")
    dense_fp32_bytes: int = measure("bytes", "4 bytes per parameter at unpruned size")
    heads_cut_out_fp32_bytes: int = measure(
        "bytes", "4 bytes per parameter with the heads called removed cut out and other zeros stored, as in 2021"
    )
    packed_fp16_bytes: int = measure("bytes", f"2 {PACKED_DEFINITION}")
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
    hidden = unpruned_width(checkpoint)
    pooler = hidden * hidden + hidden
    return Summary(
        granularity=granularity.describe(dict(zip(kinds.kind, kinds.granularity, strict=True))),
        block_misfits=", ".join(block_misfits(kinds, checkpoint.block)) or None,
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
