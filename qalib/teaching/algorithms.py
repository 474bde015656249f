"""Algorithms: what the course's students write themselves, as short as it can be.

A student's notebook has the signature and docstring of each and leaves the rest to be written (`exercises.student`).
What is written is held against the package (`algorithm_checks`), and so is what stands here.
"""

import numpy as np
import torch
from torch.nn import functional

from qalib.model import blocks


def magnitude_mask(weight, keep_fraction, block):
    """A mask of the weight's shape, `(rows, columns)`, that is true where a weight is kept.

    At most `keep_fraction` (0 to 1) of the blocks stay, as many as can be: those of the largest root mean square.
    """
    scores = blocks.split(weight, block).square().mean((-1, -2))
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().topk(int(keep_fraction * scores.numel())).indices] = True
    return blocks.expand(kept.view_as(scores), block)


def block_product(values, kept, x):
    """The product `W @ x`, shape `(rows, n)`, of a weight of which only the kept blocks are stored, in numpy.

    `kept` says which blocks there are, bool, shape `(R, C)`; `values` has them row by row, shape `(blocks, height,
    width)`; `x` has shape `(C * width, n)`. The zeros are not to be written out.
    """
    height, width = values.shape[1:]
    product = np.zeros((len(kept) * height, x.shape[1]), x.dtype)
    for value, (row, column) in zip(values, np.argwhere(kept), strict=True):
        product[row * height : (row + 1) * height] += value @ x[column * width : (column + 1) * width]
    return product


class StraightThrough(torch.autograd.Function):
    """A mask that can be learnt: a step on the way forward, and a straight line of slope 1 on the way back."""

    @staticmethod
    def forward(ctx, scores, threshold):
        """1 where a score is above the threshold, else 0; of the shape and type of the scores."""
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient):
        """From dL/dmask the gradients of the scores and of the threshold; None for the latter, which is not learnt."""
        return gradient, None


def movement_step(scores, weight, gradient, block, learning_rate):
    """The scores after one step of gradient descent, shape `(R, C)`, one a block.

    `gradient` is dL/dW', of the masked weight W' = W * mask, of the shape of `weight`; masks are straight-through.
    """
    return scores - learning_rate * blocks.split(gradient * weight, block).sum((-1, -2))


def distillation_loss(student, teacher, temperature):
    """The divergence of the student from the teacher at a temperature, in nats, times the temperature squared.

    Both are logits of shape `(batch, 2, length)`, for start and end; the mean is over batch, start and end. Padding has
    the most negative logits, and must not make the loss nan.
    """
    mine, theirs = (functional.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    return temperature**2 * (theirs.exp() * (theirs - mine)).sum(-1).mean()
