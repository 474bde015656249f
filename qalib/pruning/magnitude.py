"""Masks: which weights stay, chosen in tiles of one shape or another at the same density.

A tile of (1, 1) is a single weight, (32, 32) a block, (1, None) a row and (None, 1) a column; None stands for the whole
length. Tiles are ranked by the root mean square of their weights (magnitude pruning; Han et al. 2015, arXiv
1506.02626, for single weights). Weights that are zero already count neither as kept nor as cut, so that a model that is
block-sparse already can be pruned further and compared at equal numbers of weights.

>>> weight = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
>>> choose(weight, 0.5, (1, 1))
tensor([[ True, False],
        [ True, False]])
>>> choose(weight, 0.5, (1, None))
tensor([[ True,  True],
        [False, False]])
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import movement
from qalib.utils.errors import InputError

Shape = tuple[int | None, int | None]


SHAPES: dict[str, Shape] = {"single weights": (1, 1), "blocks": (32, 32), "rows": (1, None), "columns": (None, 1)}


CUTS = ("smallest", "random", "largest")


def choose(weight: Tensor, share: float, shape: Shape, cut: str = "smallest", seed: int = 0) -> Tensor:
    """A mask (bool, shape as the weight) that keeps at most `share` of the weights that are not zero, in whole tiles.

    `cut` says which tiles go first: those of the smallest root mean square, of the largest, or random ones.
    Raises InputError for another `cut` or a share that is not between 0 and 1, ValueError if the tile does not divide
    the weight.
    """
    if cut not in CUTS or not 0 <= share <= 1:
        raise InputError(f"cut {cut!r}, share {share:g}: choose one of {', '.join(CUTS)}, and a share from 0 to 1")
    tile = (shape[0] or weight.shape[0], shape[1] or weight.shape[1])
    tiles = blocks.split(weight, tile)
    counts = (tiles != 0).sum((-1, -2))
    scores = (tiles.square().sum((-1, -2)) / counts.clamp(min=1)).sqrt()
    if cut == "random":
        scores = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed))
    scores = -scores if cut == "largest" else scores
    limit = movement.cut_for(scores.flatten(), counts.flatten(), share)
    return blocks.expand(scores > limit, tile) & (weight != 0)


def prune(checkpoint: Checkpoint, share: float, shape: Shape, cut: str = "smallest") -> Checkpoint:
    """A copy of the checkpoint in which every encoder matrix keeps `share` of its weights (see `choose`)."""
    pruned = replace(checkpoint, model=copy.deepcopy(checkpoint.model))
    for number, matrix in enumerate(bert.matrices(pruned.model)):
        weight = matrix.linear.weight.data
        weight.mul_(choose(weight, share, shape, cut, number))
    return pruned
