"""Magnitude pruning: masks that keep the largest weights, chosen at one granularity or another at the same density.

A tile of (1, 1) is a single weight, (32, 32) a block, (1, None) a row and (None, 1) a column; None stands for the whole
length. Tiles are ranked by the root mean square of their weights (Han et al. 2015, arXiv 1506.02626, for single
weights). Weights that are zero already count neither as kept nor as pruned, so that a model that is block-sparse
already can be pruned further and compared at equal numbers of weights.

>>> weight = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
>>> magnitude_mask(weight, 0.5, (1, 1))
tensor([[ True, False],
        [ True, False]])
>>> magnitude_mask(weight, 0.5, (1, None))
tensor([[ True,  True],
        [False, False]])
"""

import torch
from torch import Tensor

from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.pruning.movement import threshold_for_density
from qalib.utils.errors import InputError

Granularity = tuple[int | None, int | None]

GRANULARITIES: dict[str, Granularity] = {
    "single weights": (1, 1),
    "blocks": (32, 32),
    "rows": (1, None),
    "columns": (None, 1),
}
REMOVED = ("smallest", "random", "largest")


def magnitude_mask(
    weight: Tensor, keep_fraction: float, granularity: Granularity, removed: str = "smallest", seed: int = 0
) -> Tensor:
    """A mask (bool, shape as the weight) that keeps at most `keep_fraction` of the weights that are not zero.

    Whole tiles stay or go; `removed` says which go: those of the smallest root mean square, of the largest, or random
    ones. Raises InputError for another word or a fraction that is not between 0 and 1, ValueError if the tile does not
    divide the weight.
    """
    if removed not in REMOVED or not 0 <= keep_fraction <= 1:
        choices = f"choose one of {', '.join(REMOVED)}, and a fraction from 0 to 1"
        raise InputError(f"removed {removed!r}, keep_fraction {keep_fraction:g}: {choices}")
    tile = (granularity[0] or weight.shape[0], granularity[1] or weight.shape[1])
    tiles = blocks.split(weight, tile)
    counts = (tiles != 0).sum((-1, -2))
    scores = (tiles.square().sum((-1, -2)) / counts.clamp(min=1)).sqrt()
    if removed == "random":
        scores = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed))
    scores = -scores if removed == "largest" else scores
    threshold = threshold_for_density(scores.flatten(), counts.flatten(), keep_fraction)
    return blocks.expand(scores > threshold, tile) & (weight != 0)


def prune(
    checkpoint: Checkpoint, keep_fraction: float, granularity: Granularity, removed: str = "smallest"
) -> Checkpoint:
    """A copy of the checkpoint in which every encoder matrix keeps `keep_fraction` of its weights."""
    pruned = checkpoint.copy()
    for number, matrix in enumerate(bert.matrices(pruned.model)):
        weight = matrix.linear.weight.data
        weight.mul_(magnitude_mask(weight, keep_fraction, granularity, removed, number))
    return pruned
