"""Counts: weights, blocks, heads and neurons that are left."""

import pandas as pd
import torch

from qalib.model import bert, blocks, granularity
from qalib.model.checkpoint import Checkpoint


def per_matrix(checkpoint: Checkpoint) -> pd.DataFrame:
    """One row per encoder matrix: layer, kind, granularity (the unit of pruning of its kind), rows, columns,
    weights, kept_weights (not zero), density, blocks, kept_blocks, block_density, empty_rows, empty_columns.

    Rows, columns and weights are counted before pruning; blocks are those in which the checkpoint is stored.
    """
    table = []
    shapes = granularity.detect_by_kind(checkpoint.model)
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
    width = unpruned_width(checkpoint)
    inner = config.intermediate_size
    return {"FFN in": (inner, width), "FFN out": (width, inner)}.get(kind, (width, width))


def unpruned_width(checkpoint: Checkpoint) -> int:
    """Width of the encoder before pruning: all heads side by side."""
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
    return list(kinds.kind[zeros > granularity.STRAY_SHARE * kinds.blocks * area])


def block_masks(checkpoint: Checkpoint, block: blocks.Block | None = None) -> dict[tuple[int, str], torch.Tensor]:
    """The block mask of every encoder matrix by `(layer, kind)`: bool, shape `(rows/height, columns/width)`.

    Blocks are the checkpoint's unless given.
    """
    return {
        (m.layer, m.kind): blocks.mask(m.linear.weight.detach(), block or checkpoint.block)
        for m in bert.matrices(checkpoint.model)
    }


def block_fill(checkpoint: Checkpoint) -> dict[tuple[int, str], torch.Tensor]:
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
