"""Solutions: the right answer to every exercise that asks for numbers, and common mistakes.

A solution is a function from the exercise's inputs to the right answer and `{message: wrong answer}`. Its docstring is
the message for a right answer.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qalib.model import bert, blocks

Exercise = tuple[Any, dict[str, Any]]
EXERCISES: dict[str, Callable[..., Exercise]] = {}


def exercise(function: Callable[..., Exercise]) -> Callable[..., Exercise]:
    """Register an exercise under its function's name."""
    EXERCISES[function.__name__] = function
    return function


@exercise
def density(weight: Tensor) -> Exercise:
    """Density is kept weights / all weights."""
    share = (weight != 0).double().mean().item()
    return share, {
        "that is the sparsity, the share that is gone": 1 - share,
        "a share is between 0 and 1, this is in percent": 100 * share,
        "that is how many, not which share": (weight != 0).sum(),
        "negative weights are weights, too: count all but zeros": (weight > 0).double().mean(),
    }


@exercise
def largest_tenth(weight: Tensor) -> Exercise:
    """A tenth of the weights that are left is larger than that, nine tenths are not."""
    return weight[weight != 0].abs().quantile(0.9), {
        "the zeros were counted, too: take the weights that are not zero": weight.abs().quantile(0.9),
        "take the sizes: ignore signs": weight[weight != 0].quantile(0.9),
        "that is the smallest tenth": weight[weight != 0].abs().quantile(0.1),
    }


@exercise
def head_rows(weight: Tensor, heads: int, head: int) -> Exercise:
    """A head owns consecutive rows of query, key and value, as many as it is wide."""
    rows = bert.split_heads(weight, heads)
    return rows[head], {
        "those are columns; outputs are rows": bert.split_heads(weight.T, heads)[head].T,
        "heads are counted from 0: that is the one before": rows[head - 1],
        "heads are counted from 0: that is the one after": rows[(head + 1) % heads],
    }


@exercise
def block_scores(weight: Tensor, block: blocks.Block) -> Exercise:
    """The root mean square says how large a block's weights are, whatever its size."""
    squares = blocks.split(weight, block).square()
    return squares.mean((-1, -2)).sqrt(), {
        "take the root of the mean": squares.mean((-1, -2)),
        "that is the root of the sum; blocks of another size could not be compared": squares.sum((-1, -2)).sqrt(),
        "signs cancel in a mean: square first": blocks.split(weight, block).mean((-1, -2)),
        "that is the mean absolute value: square, take the mean, take the root":
            blocks.split(weight, block).abs().mean((-1, -2)),
        "that is the sum of the sizes: square, take the mean, take the root":
            blocks.split(weight, block).abs().sum((-1, -2)),
    }  # fmt: skip


@exercise
def block_mask(weight: Tensor, block: blocks.Block, count: int) -> Exercise:
    """The mask keeps the blocks with the largest scores."""
    scores = blocks.split(weight, block).square().mean((-1, -2))
    order = scores.flatten().argsort(descending=True)

    def marked(chosen: Tensor) -> Tensor:
        mask = torch.zeros(scores.numel(), dtype=torch.bool)
        mask[chosen] = True
        return mask.view_as(scores)

    kept = marked(order[:count])
    off = {n: f"that keeps {n}, expected {count}" for n in (count - 1, count + 1) if n >= 0}
    return kept, {text: marked(order[:n]) for n, text in off.items()} | {
        "that keeps the smallest": marked(order.flip(0)[:count]),
        "those are the blocks to cut": ~kept,
    }


@exercise
def multiply_add_ratio(work: Any) -> Exercise:
    """It says how much less there is to do, which is not how much faster it is done."""
    dense, compact, sparse = (float(work[column].sum()) for column in ("dense", "compact", "sparse"))
    return dense / sparse, {
        "the other way round: the ratio is the old work / the new": sparse / dense,
        "that is the ratio for cutting out heads and neurons only": dense / compact,
    }


@exercise
def amdahl(share: float, factor: float) -> Exercise:
    """The part that is not made faster soon sets the pace (Amdahl's law)."""
    return 1 / (1 - share + share / factor), {
        "that would be so if everything became that much faster": factor,
        "that is the time that is left; the speedup is one over it": 1 - share + share / factor,
    }


@exercise
def score_gradient(weight: Tensor, gradient: Tensor, block: blocks.Block) -> Exercise:
    """The sum over the block of dL/dW' * W is what autograd finds through the mask, too."""
    products = blocks.split(gradient * weight, block)
    return products.sum((-1, -2)), {
        "that is how the score will move; the gradient has the other sign": -products.sum((-1, -2)),
        "the mask multiplies the whole block: sum, do not average": products.mean((-1, -2)),
        "signs matter: towards zero and away from it must not look alike": products.abs().sum((-1, -2)),
    }


@exercise
def second_step(rate: float, start: tuple[float, float], best: tuple[float, float]) -> Exercise:
    """After two steps a weight's score has added up minus gradient times weight twice."""
    once = start[0] - rate * (start[0] - best[0])
    first, second = -(start[0] - best[0]) * start[0], -(once - best[0]) * once
    return first + second, {
        "that is the score after one step": first,
        "minus the gradient: the sign is reversed": -first - second,
        "that is the second step alone; the score adds them up": second,
    }


@exercise
def removable(value: Tensor, heads: int) -> Exercise:
    """Without value weights a head says the same of every text, and the next bias can say it."""
    zero = bert.split_heads(value == 0, heads).flatten(1)
    return zero.all(1), {
        "those are the heads that still have value weights": ~zero.all(1),
        "one zero is not enough: all the head's rows must be": zero.any(1),
    }


@exercise
def constant(output: Tensor, bias: Tensor, rows: slice) -> Exercise:
    """The attention weights sum to one, so that the value bias passes through them unchanged."""
    return output[:, rows] @ bias[rows], {
        "that is what all heads' biases come to": output @ bias,
        "it still has to pass the attention output": bias[rows],
    }


@exercise
def soft_targets(logits: Tensor, temperature: float) -> Exercise:
    """Dividing the logits by a temperature above 1 evens the probabilities out."""
    return (logits / temperature).softmax(-1), {
        "those are the probabilities at temperature 1": logits.softmax(-1),
        "multiplying makes them sharper: divide": (logits * temperature).softmax(-1),
        "the temperature belongs inside, before the softmax": logits.softmax(-1) / temperature,
    }


@exercise
def divergence(teacher: Tensor, student: Tensor) -> Exercise:
    """The Kullback-Leibler divergence is zero only where the student says just what the teacher says."""
    nats = (teacher * (teacher / student).log()).sum()
    return nats, {
        "teacher and student are interchanged": (student * (student / teacher).log()).sum(),
        "that is the cross-entropy: the teacher's own entropy is still in it": -(teacher * student.log()).sum(),
        "the sign is reversed": -nats,
        "that is in bits: nats take the natural logarithm, not log2": nats / math.log(2),
        "`F.kl_div` divides by how many there are by default (reduction 'mean'): take the sum":
            nats / teacher.numel(),
    }  # fmt: skip


@exercise
def saving(file: float, original: float) -> Exercise:
    """In the same unit on both sides a saving does not depend on which unit it is."""
    return 100 * (1 - file / original), {
        "that is what is left; the saving is the rest": 100 * file / original,
        "the file is in MiB there and the original in MB": 100 * (1 - file / 2**20 / (original / 1e6)),
        "give it in percent": 1 - file / original,
    }


@exercise
def overall(kept: int, pruned: int, others: int) -> Exercise:
    """What is not pruned counts on both sides, and makes a model look denser."""
    return 100 * (kept + others) / (pruned + others), {
        "that is the linear density: the other parameters are not in it": 100 * kept / pruned,
        "the other parameters were counted as kept, but not among all": 100 * (kept + others) / pruned,
        "give it in percent": (kept + others) / (pruned + others),
    }


@exercise
def cheapest(costs: Tensor, cut: Tensor) -> Exercise:
    """The price of a block is the cost divided by the blocks that it buys."""
    rates = costs / cut
    return rates.argmin(), {
        "that costs least in all, and cuts little: divide by the blocks": costs.argmin(),
        "that cuts most: look at what it costs, too": cut.argmax(),
        "that is the most expensive": rates.argmax(),
        "that is the price; give the number of the matrix": rates.min(),
    }


@exercise
def pattern_bits(kept: int, group: int) -> Exercise:
    """So many bits tell the choices apart; hardware takes a round number above."""
    choices = math.comb(group, kept)
    return math.log2(choices), {
        "that is how many choices there are: take the logarithm, base 2": choices,
        "a bit for each place is more than is needed: many of those masks keep another number": group,
        "the natural logarithm gives nats; bits take log2": math.log(choices),
        "the order in which they are chosen does not matter": math.log2(math.perm(group, kept)),
        "that is what hardware stores: an index for each weight kept; fewer bits would do": kept * math.log2(group),
    }


@exercise
def left_behind(column: Tensor, mean: Tensor, gone: Tensor) -> Exercise:
    """What a neuron gives on average is a constant, and a bias can say it."""
    return column[:, gone] @ mean[gone], {
        "that is what all neurons give; take those that go": column @ mean,
        "it still has to pass the column that reads it": mean[gone],
        "the sign is reversed: the bias takes it over": -column[:, gone] @ mean[gone],
        "that is what those that stay give": column[:, ~gone] @ mean[~gone],
    }


@exercise
def int8_bytes(rows: int, columns: int, kept: int, block: blocks.Block) -> Exercise:
    """A byte a weight of the kept blocks, and four a row: next to the numbers, scales are cheap."""
    weights = kept * block[0] * block[1]
    return weights + 4 * rows, {
        "the scales are missing: 4 bytes a row": weights,
        "all weights were counted; those of the kept blocks are stored": rows * columns + 4 * rows,
        "a weight in int8 has one byte": 4 * weights + 4 * rows,
        "a kept block has more weights than one": kept + 4 * rows,
        "a scale takes 4 bytes": weights + rows,
    }
