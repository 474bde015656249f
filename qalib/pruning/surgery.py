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
from qalib.pruning.calibration import RESIDUAL, SUBLAYERS, Calibration
from qalib.pruning.movement import threshold_for_density
from qalib.pruning.pruner import require_grid

DAMPING = 0.01  # of the mean of the diagonal, added to it
REACH = 4  # of the share of weights that is to go, a row of blocks may lose so many times as much


def damped(products: Tensor, damping: float = DAMPING) -> Tensor:
    """Add a share of the mean of the diagonal to it, so that the matrix, shape `(columns, columns)`, has an inverse."""
    return products + damping * products.diagonal().mean() * torch.eye(len(products)).to(products)


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


def removal_costs(weight: Tensor, products: Tensor, kept: Tensor, block: Block, most: int | None = None) -> Tensor:
    """What each block costs where the cheapest of its row of blocks is removed first, then the cheapest left, ...

    The rise of the outputs' squared error, shape `(rows/height, columns/width)`; infinite for blocks that are removed
    already, and for those left in a row once `most` are priced. No block costs less than those removed before it in its
    row, or as much, so that the blocks below any cost are the first of each row (Frantar and Alistarh 2022, arXiv
    2208.11580, section 4). `weight` must be the best over the kept blocks; the other arguments are those of
    `least_squares`.
    """
    (height, width), (rows, columns) = block, kept.shape
    inverse, tiles = (
        _inverses(products, kept.repeat_interleave(width, 1), weight.dtype),
        blocks.split(weight, block).clone(),
    )
    result, left, identity = weight.new_full(kept.shape, math.inf), kept.clone(), torch.eye(width).to(weight)
    highest, row = weight.new_zeros(rows), torch.arange(rows, device=weight.device)
    within = torch.arange(width, device=weight.device)
    for _ in range(min(most or columns, int(kept.sum(1).max()))):
        diagonal = inverse.view(rows, columns, width, columns, width).diagonal(dim1=1, dim2=3).movedim(-1, 1)
        diagonal = torch.where(left[..., None, None], diagonal, identity)
        solved = torch.linalg.solve(diagonal, tiles, left=False)
        cheapest, column = (solved * tiles).sum((-1, -2)).masked_fill(~left, math.inf).min(1)
        highest = torch.maximum(torch.nextafter(highest, weight.new_tensor(math.inf)), cheapest)
        result[row, column] = torch.where(left[row, column], highest, result[row, column])
        # Gaussian elimination; in a row that is empty already, all is zero.
        across = inverse.gather(1, (column[:, None] * width + within)[..., None].expand(-1, -1, columns * width))
        change = solved[row, column] @ across
        tiles -= change.view(rows, height, columns, width).transpose(1, 2)
        inverse.baddbmm_(across.transpose(1, 2), torch.linalg.solve(diagonal[row, column], across), alpha=-1)
        left[row, column] = False
    return result


def neuron_costs(weight: Tensor, products: Tensor, curvature: Tensor) -> Tensor:
    """What each column of FFN out adds to the loss if it alone goes: shape `(columns,)`, as `removal_costs` in 1x1.

    `products` is damped, and `curvature`, shape `(rows,)`, weights the outputs.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products)).diagonal()
    return (curvature[:, None] * weight.to(products).square()).sum(0) / inverse


def _inverses(products: Tensor, kept: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse over the columns each row of a mask keeps, zero elsewhere: shape `(rows, columns, columns)`."""
    inverses = products.new_zeros(len(kept), *products.shape, dtype=dtype)
    patterns, row_patterns = kept.unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        columns = pattern.nonzero()
        part = products[columns, columns.T]
        part = torch.cholesky_inverse(torch.linalg.cholesky(part))
        rows = (row_patterns == number).nonzero()
        inverses[rows[..., None], columns, columns.T] = part.to(dtype)
    return inverses


@torch.no_grad()
def costs(
    model: BertForQuestionAnswering,
    products: Mapping[str, Tensor],
    curvature: Mapping[str, Tensor],
    density: float,
    block: Block,
    ffn: str = "block",
) -> dict[str, Tensor]:
    """What the blocks of each matrix add to the loss if they go, a weight: over its grid of `units`.

    The rise of the outputs' squared error, each output's weighted by its `curvature`; infinite for blocks that would
    not go at a `density`, and -infinite for those that are zero. With `ffn="hybrid"` neurons cost what FFN out loses,
    and FFN in has no costs of its own. `products` are the damped covariances of the inputs.
    """
    grids, kept, result = units(model, block, ffn), masks(model, block, ffn), {}
    share = min(1.0, REACH * (1 - density / kept_share(model)))
    weights = {matrix.name: matrix.linear.weight for matrix in bert.matrices(model)}
    for name, size in _weights_each(model, block, ffn).items():
        weighted, most = curvature[name].sqrt()[:, None] * weights[name], math.ceil(share * kept[name].shape[1])
        rises = removal_costs(weighted, products[name], kept[name], grids[name], most)
        result[name] = torch.where(kept[name], rises / size, -math.inf)
    return result


def choose(
    model: BertForQuestionAnswering, prices: Mapping[str, Tensor], density: float, block: Block, ffn: str = "block"
) -> dict[str, Tensor]:
    """Which blocks of each matrix to keep, at most a share `density` of all weights: those with the highest `costs`.

    Bool, over its grid of `units`.
    """
    sizes = _weights_each(model, block, ffn)
    flat = torch.cat([price.flatten() for price in prices.values()])
    weights = torch.cat([torch.full_like(price, sizes[name]).flatten() for name, price in prices.items()])
    threshold = threshold_for_density(flat, weights, density)
    kept = {name: price > threshold for name, price in prices.items()}
    for layer in range(model.config.num_hidden_layers) if ffn == "hybrid" else ():
        names = {m.kind: m.name for m in bert.matrices(model) if m.layer == layer}
        kept[names["FFN in"]] = kept[names["FFN out"]].T
    return kept


def kept_share(model: BertForQuestionAnswering) -> float:
    """Weights that are not zero / all weights of the encoder matrices."""
    weights = [matrix.linear.weight for matrix in bert.matrices(model)]
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def _weights_each(model: BertForQuestionAnswering, block: Block, ffn: str) -> dict[str, int]:
    """The weights that go with a unit, of the matrices whose units are priced: a neuron's in FFN out and FFN in."""
    sizes = {name: math.prod(unit) for name, unit in units(model, block, ffn).items()}
    for matrix in bert.matrices(model) if ffn == "hybrid" else ():
        if matrix.kind == "FFN in":
            del sizes[matrix.name]
        elif matrix.kind == "FFN out":
            sizes[matrix.name] *= 2
    return sizes


def masks(model: BertForQuestionAnswering, block: Block, ffn: str = "block") -> dict[str, Tensor]:
    """Which blocks of each matrix are not zero: bool, over its grid of `units`."""
    grids = units(model, block, ffn)
    return {matrix.name: blocks.mask(matrix.linear.weight, grids[matrix.name]) for matrix in bert.matrices(model)}


def units(model: BertForQuestionAnswering, block: Block, ffn: str = "block") -> dict[str, Block]:
    """The blocks that each matrix is pruned in, by name: with `ffn="hybrid"` rows of FFN in and columns of FFN out.

    Raises InputError if the block does not divide a matrix.
    """
    grids = {}
    for matrix in bert.matrices(model):
        rows, columns = matrix.linear.weight.shape
        neurons = {"FFN in": (1, columns), "FFN out": (rows, 1)} if ffn == "hybrid" else {}
        grids[matrix.name] = neurons.get(matrix.kind, block)
        require_grid(matrix, grids[matrix.name])
    return grids


@torch.no_grad()
def refit(
    model: BertForQuestionAnswering,
    dense: BertForQuestionAnswering,
    calibration: Calibration,
    kept: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Set each matrix and its bias to the least-squares fit to its targets, in place, with only the kept blocks.

    From the first sublayer to the last, each with the inputs that it gets from those before: fitted all at once, each
    would make up for errors that others have mended, and repeating it diverges. Targets are what the dense matrix makes
    of its own inputs (see `calibration.Moments`). The damping pulls the weights to the dense model's. Returns the
    damped covariances of the inputs, by the matrices' names.
    """
    names = {(matrix.layer, matrix.kind): matrix.name for matrix in bert.matrices(model)}
    products = {}
    for number, (layer, original) in enumerate(zip(bert.layers(model), bert.layers(dense), strict=True)):
        for kinds in SUBLAYERS:
            moments = calibration.moments(layer, original, kinds[0])
            with_ridge = damped(moments.products)
            for kind in kinds:
                name = names[number, kind]
                linear, reference = bert.linear(layer, kind), bert.linear(original, kind)
                weight = reference.weight.double()
                targets, target_mean = moments.cross, moments.reference_mean
                if kind not in RESIDUAL:
                    targets, target_mean = weight @ targets, weight @ target_mean + reference.bias
                targets = targets + weight @ (with_ridge - moments.products)
                (rows, columns), (down, across) = weight.shape, kept[name].shape
                block = rows // down, columns // across
                fitted = least_squares(targets, with_ridge, kept[name], block)
                linear.weight.copy_(fitted)
                linear.bias.copy_(target_mean - fitted @ moments.mean)
                products[name] = with_ridge
        calibration.advance(layer, original)
    return products
