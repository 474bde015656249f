"""Movement pruning in blocks: scores, and the masks that they make.

After Movement Pruning (Sanh et al. 2020, arXiv 2005.07683) and Block Pruning For Faster Transformers (Lagunas et al.
2021, arXiv 2109.04838). Every block of a weight W has a score S. The forward pass uses W' = W * mask, where the mask of
a block is 1 if sigmoid(S) is above a threshold. The backward pass takes the mask's derivative to be 1
(straight-through), so

    dL/dS = sum over the block of dL/dW' * W

and a score rises where training moves the block's weights away from zero.

>>> scores = Scores((1, 2), weights=4)  # two blocks of 2x2
>>> mask = Mask(scores)
>>> scores.values.data = torch.tensor([[-1.0, 1.0]])
>>> scores.threshold = 0.0
>>> mask(torch.ones(2, 4))
tensor([[0., 0., 1., 1.],
        [0., 0., 1., 1.]], grad_fn=<ViewBackward0>)
"""

import math

import torch
from torch import Tensor, nn

from qalib.model.blocks import Block


class _ThresholdBinarizer(torch.autograd.Function):
    """1 where a score is above the threshold, else 0; the gradient passes as if it were the score itself."""

    @staticmethod
    def forward(ctx, scores: Tensor, threshold: float) -> Tensor:
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Scores(nn.Module):
    """The scores of a matrix, shape `(rows/height, columns/width)`, or of a layer's FFN neurons, shape `(neurons, 1)`.

    A block is kept if its score is above `threshold`, the logit of the papers' threshold. Each score stands for
    `weights` weights.
    """

    def __init__(self, shape: tuple[int, int], weights: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(shape))
        self.weights = weights
        self.threshold = -math.inf

    @property
    def kept(self) -> Tensor:
        """Which blocks are kept: bool, shape as the scores."""
        return self.values.detach() > self.threshold


class Mask(nn.Module):
    """The parametrization W' = W * mask of a weight; with `transposed` a score is a column's, not a row's."""

    scores: Scores

    def __init__(self, scores: Scores, transposed: bool = False):
        super().__init__()
        # Not as a submodule: two masks may share the scores, and a state dict must not hold a tensor twice.
        object.__setattr__(self, "scores", scores)
        self.transposed = transposed

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, of the same shape."""
        kept = _ThresholdBinarizer.apply(self.scores.values, self.scores.threshold)
        kept = kept.T if self.transposed else kept
        return (self.tiles(weight) * kept[:, None, :, None]).view_as(weight)

    def block_sums(self, weight: Tensor) -> Tensor:
        """The sum over each block of a tensor shaped as the weight; shape as the scores."""
        sums = self.tiles(weight).sum((1, 3))
        return sums.T if self.transposed else sums

    def block(self, linear: nn.Linear) -> Block:
        """Height and width of what one score of a layer's weight stands for."""
        shape = self.scores.values.T.shape if self.transposed else self.scores.values.shape
        return linear.out_features // shape[0], linear.in_features // shape[1]

    def tiles(self, weight: Tensor) -> Tensor:
        """View a tensor shaped as the weight as `(R, height, C, width)`: what R x C scores stand for."""
        rows, columns = self.scores.values.T.shape if self.transposed else self.scores.values.shape
        return weight.view(rows, weight.shape[0] // rows, columns, weight.shape[1] // columns)


def threshold_for_density(scores: Tensor, weights: Tensor, density: float) -> float:
    """The score above which at most `density` of all weights are kept, as many as can be.

    `weights` says how many weights a score stands for; both of shape `(scores,)`. Equal scores stay or go together.

    >>> threshold_for_density(torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.ones(4), 0.5)
    2.0
    """
    order = scores.argsort(descending=True)
    share = weights[order].double().cumsum(0) / weights.double().sum()
    kept = int((share <= density + 1e-9).sum())
    return scores[order[kept]].item() if kept < len(scores) else -math.inf
