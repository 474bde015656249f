"""Optimal brain surgery in blocks: what removing a block costs once the weights that stay have made up for it.

For a matrix W whose inputs x have the second moments H = E[x xᵀ], removing the block b from its row of blocks, and
refitting the rest of that row, adds to the squared error of the outputs

    tr(W_b [(H⁻¹)_bb]⁻¹ W_bᵀ)

(Hassibi and Stork 1992; for groups of weights Kurtic et al. 2022, arXiv 2203.07259, equation 6). Rows of blocks are
independent of one another, so each has an inverse of its own, over the columns it still has.

>>> products, kept = torch.eye(2), torch.ones(1, 2, dtype=torch.bool)
>>> removal_costs(torch.tensor([[3.0, 2.0]]), products, kept, (1, 1))
tensor([[9., 4.]])
>>> least_squares(torch.tensor([[3.0, 2.0]]), products, torch.tensor([[True, False]]), (1, 1))
tensor([[3., 0.]])
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import BertForQuestionAnswering

from qalib.model import bert, blocks
from qalib.model.blocks import Block
from qalib.pruning.calibration import Moments
from qalib.pruning.movement import threshold_for_density

DAMPING = 0.01  # of the mean of the diagonal, added to it
STEPS = 96  # at most, to empty a row of blocks: narrow blocks are removed several at a time


def damped(products: Tensor, damping: float = DAMPING) -> Tensor:
    """Add a share of the mean of the diagonal to it, so that the matrix, shape `(columns, columns)`, has an inverse."""
    return products + damping * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype)


def least_squares(targets: Tensor, products: Tensor, kept: Tensor, block: Block) -> Tensor:
    """The weight, shape `(rows, columns)`, with only the kept blocks that reproduces the target outputs best.

    `targets` is E[t xᵀ], shape `(rows, columns)`, for target outputs t and inputs x: W H to reproduce a weight W's own.
    `products` is E[x xᵀ], damped, and `kept` a bool mask of blocks, shape `(rows/height, columns/width)`.
    """
    weight = torch.zeros_like(targets)
    patterns, row_patterns = kept.unique(dim=0, return_inverse=True)  # rows of blocks alike are solved together
    for number, pattern in enumerate(patterns):
        rows = (row_patterns == number).repeat_interleave(block[0]).nonzero()
        columns = pattern.repeat_interleave(block[1]).nonzero().T
        factor = torch.linalg.cholesky(products[columns.T, columns])
        weight[rows, columns] = torch.cholesky_solve(targets[rows, columns].T, factor).T
    return weight


def removal_costs(weight: Tensor, products: Tensor, kept: Tensor, block: Block) -> Tensor:
    """What each block costs where the cheapest of its row of blocks is removed first, then the cheapest left, ...

    The rise of the outputs' squared error, shape `(rows/height, columns/width)`, infinite for blocks already removed.
    It counts what went before: removing all blocks that cost at most c, in any number of rows, is one such order, as no
    block is said to cost less than those before it. `weight` is the best one over the kept blocks (see
    `least_squares`); the other arguments are as there. A row is emptied in at most STEPS steps (Frantar and Alistarh
    2022, arXiv 2208.11580, section 4).
    """
    (height, width), (rows, columns) = block, kept.shape
    inverse = _inverses(products, kept.repeat_interleave(width, 1))
    tiles, alive = blocks.split(weight, block).clone(), kept.clone()
    costs, highest = torch.full(kept.shape, math.inf, dtype=weight.dtype), torch.zeros(rows, dtype=weight.dtype)
    number = -(-columns // STEPS)
    within, row = torch.arange(width), torch.arange(rows)[:, None]
    for _ in range(-(-int(kept.sum(1).max()) // number)):
        diagonal = inverse.view(rows, columns, width, columns, width).diagonal(dim1=1, dim2=3).movedim(-1, 1)
        diagonal = torch.where(alive[..., None, None], diagonal, torch.eye(width, dtype=weight.dtype))
        rises = (torch.linalg.solve(diagonal, tiles, left=False) * tiles).sum((-1, -2)).masked_fill(~alive, math.inf)
        rise, chosen = rises.topk(number, largest=False)
        highest = torch.where(rise.isfinite(), torch.maximum(highest[:, None], rise), math.inf).cummax(1).values
        real = rise.isfinite()
        costs[row.expand_as(chosen)[real], chosen[real]] = highest[real]
        highest = torch.where(real, highest, 0).amax(1)
        # Gauss: the inverse over the columns that stay, and the weights that make up for those that go.
        gone = (chosen[..., None] * width + within).flatten(1)
        across = inverse.gather(1, gone[..., None].expand(-1, -1, columns * width))
        pivot = across.gather(2, gone[:, None].expand(-1, gone.shape[1], -1))
        dead = ~real.repeat_interleave(width, 1)
        pivot = pivot + torch.diag_embed(dead.to(weight.dtype))  # rows and columns of what is gone are zero
        step = torch.linalg.solve(pivot, across)
        lost = tiles.transpose(1, 2).reshape(rows, height, -1).gather(2, gone[:, None].expand(-1, height, -1))
        tiles -= (lost @ step).view(rows, height, columns, width).transpose(1, 2)
        inverse.baddbmm_(across.transpose(1, 2), step, alpha=-1)
        alive[row.expand_as(chosen)[real], chosen[real]] = False
        tiles[~alive] = 0
    return costs


def _inverses(products: Tensor, kept: Tensor) -> Tensor:
    """The inverse over the columns each row of a mask keeps, zero elsewhere: shape `(rows, columns, columns)`."""
    inverses = products.new_zeros(len(kept), *products.shape)
    for inverse, row in zip(inverses, kept, strict=True):
        columns = row.nonzero()
        inverse[columns, columns.T] = torch.cholesky_inverse(torch.linalg.cholesky(products[columns, columns.T]))
    return inverses


@torch.no_grad()
def choose(
    model: BertForQuestionAnswering,
    moments: Mapping[str, Moments],
    curvature: Mapping[str, Tensor],
    density: float,
    block: Block,
    ffn: str = "block",
) -> dict[str, Tensor]:
    """Which blocks of each matrix to keep, at most a share `density` of all weights: bool, over its grid of `units`.

    Those go that add least, a weight, to the loss: the rise of the outputs' squared error, each output's weighted by
    its `curvature`. What is zero already stays so. With `ffn="hybrid"` neurons cost what FFN out loses.
    """
    grids = units(model, block, ffn)
    scores, sizes = {}, {}
    for matrix in bert.matrices(model):
        name, weight = matrix.name, matrix.linear.weight
        kept = blocks.mask(weight, grids[name])
        neurons = ffn == "hybrid" and matrix.kind.startswith("FFN")
        if neurons and matrix.kind == "FFN in":
            continue
        products = damped(moments[name].products)
        costs = removal_costs(curvature[name].sqrt()[:, None] * weight, products, kept, grids[name])
        sizes[name] = (2 if neurons else 1) * math.prod(grids[name])
        scores[name] = torch.where(kept, costs / sizes[name], -math.inf)
    flat = torch.cat([score.flatten() for score in scores.values()])
    weights = torch.cat([torch.full_like(score, sizes[name]).flatten() for name, score in scores.items()])
    threshold = threshold_for_density(flat, weights, density)
    kept = {name: score > threshold for name, score in scores.items()}
    for layer in range(model.config.num_hidden_layers) if ffn == "hybrid" else ():
        names = {m.kind: m.name for m in bert.matrices(model) if m.layer == layer}
        kept[names["FFN in"]] = kept[names["FFN out"]].T
    return kept


def units(model: BertForQuestionAnswering, block: Block, ffn: str = "block") -> dict[str, Block]:
    """The blocks that each matrix is pruned in, by name: with `ffn="hybrid"` rows of FFN in and columns of FFN out."""
    grids = {}
    for matrix in bert.matrices(model):
        rows, columns = matrix.linear.weight.shape
        neurons = {"FFN in": (1, columns), "FFN out": (rows, 1)} if ffn == "hybrid" else {}
        grids[matrix.name] = neurons.get(matrix.kind, block)
    return grids


@torch.no_grad()
def refit(
    model: BertForQuestionAnswering,
    dense: BertForQuestionAnswering,
    moments: Mapping[str, Moments],
    kept: Mapping[str, Tensor],
    grids: Mapping[str, Block],
) -> None:
    """Set each matrix and its bias to the least-squares fit to its targets, in place, with only the kept blocks.

    The damping pulls the weights to the dense model's.
    """
    for matrix, original in zip(bert.matrices(model), bert.matrices(dense), strict=True):
        name, linear, wanted = matrix.name, matrix.linear, moments[matrix.name]
        products = wanted.products.double()
        ridge = damped(products) - products
        targets = wanted.targets.double() + original.linear.weight.double() @ ridge
        weight = least_squares(targets, products + ridge, kept[name], grids[name])
        linear.weight.copy_(weight)
        linear.bias.copy_(wanted.target_mean - linear.weight @ wanted.input_mean)
