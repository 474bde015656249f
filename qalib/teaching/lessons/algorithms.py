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


def budget(costs, cut, wanted):
    """How far each matrix is cut, shape `(matrices,)`: 0 is not at all, 1 to the first level, 2 to the second, ...

    `costs` says what a level costs, and `cut` how many blocks it takes away, both of shape `(matrices, levels)` and
    counted from the whole matrix. One step at a time is taken, from a matrix's level to its next: always the step that
    costs least for each block that it takes, until at least `wanted` blocks are gone or no step is left.
    """
    prices, taken = (torch.diff(table.double(), dim=1, prepend=torch.zeros(len(table), 1)) for table in (costs, cut))
    steps, gone = torch.zeros(len(costs), dtype=torch.long), 0
    while gone < wanted and (steps < costs.shape[1]).any():
        left = (steps < costs.shape[1]).nonzero().flatten()
        rates = prices[left, steps[left]] / taken[left, steps[left]].clamp(min=1)
        chosen = left[rates.argmin()]
        gone += taken[chosen, steps[chosen]].item()
        steps[chosen] += 1
    return steps


def wanda_mask(weight, norms):
    """A mask of the weight's shape, `(rows, columns)`, that keeps 2 of every 4 weights side by side in a row.

    Those stay that are largest in size times the norm of their input; `norms` has one a column, shape `(columns,)`.
    """
    scores = (weight.abs() * norms).reshape(len(weight), -1, 4)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(-1, scores.topk(2, -1).indices, True).reshape(weight.shape)


def surgery(weight, products, index):
    """A row of weights, shape `(n,)`, after the one at `index` was cut and the others have made up for it.

    `products` is the mean of x x^T over the inputs x, shape `(n, n)`. The others change so that the output, the sum of
    weight times input, moves as little as it can (in the mean of squares).
    """
    inverse = torch.linalg.inv(products)
    return weight - weight[index] / inverse[index, index] * inverse[:, index]


def neuron_scores(given, column):
    """What each neuron of an FFN moves the output by, shape `(neurons,)`, once its mean is left behind in a bias.

    `given` is what the neurons give for some tokens, shape `(tokens, neurons)`, and `column` is the weight that reads
    them, shape `(outputs, neurons)`: the root mean square, over the tokens, of the change of the output's norm.
    """
    return given.std(0, correction=0) * column.norm(dim=0)


def quantize(weight):
    """Whole numbers from -127 to 127, of the weight's shape, `(rows, columns)`, and the rows' scales, shape `(rows,)`.

    A number times its row's scale is near the weight: the nearest there is, but for weights that are not zero and would
    become it. Those take 1 or -1, since a zero would change the model's density. No row is all zero.
    """
    scales = weight.abs().amax(1) / 127
    numbers = (weight / scales[:, None]).round()
    return torch.where(numbers == 0, weight.sign(), numbers), scales
