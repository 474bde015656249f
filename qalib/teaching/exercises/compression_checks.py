"""What students write in the later notebooks: inputs, what is right, and the mistakes worth a word."""

from itertools import product

import torch
from torch import Tensor

from qalib.model import quantization
from qalib.teaching.exercises.algorithm_checks import Algorithm, Case
from qalib.teaching.exercises.mask_checks import random
from qalib.teaching.lessons import patterns


def _uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---- budget


def _budget_case(seed: int, matrices: int, levels: int, share: float) -> Case:
    """Costs that rise with the level, not always faster and faster, and matrices of several sizes."""
    costs = _uniform(seed, matrices, levels).cumsum(1) * 10 ** _uniform(seed + 1, matrices, 1)
    cut = torch.randint(1, 20, (matrices, levels), generator=torch.Generator().manual_seed(seed + 2)).cumsum(1)
    return {"costs": costs, "cut": cut, "wanted": int(share * cut[:, -1].sum())}


def _by_sorting(rate=lambda price, taken: price / taken, rises=True, whole=False, over=False):
    """The greedy choice by an ordered list, independent of the loop that students write. `rate` orders the steps,
    `whole` counts a level from the whole matrix each time, and `over` stops a step too early."""

    def budget(costs: Tensor, cut: Tensor, wanted: int) -> Tensor:
        steps, gone = [0] * len(costs), 0
        while gone < wanted and any(step < costs.shape[1] for step in steps):
            offers = []
            for row, step in enumerate(steps):
                if step < costs.shape[1]:
                    before = (0, 0) if step == 0 or whole else (costs[row, step - 1].item(), cut[row, step - 1].item())
                    price, taken = costs[row, step].item() - before[0], cut[row, step].item() - before[1]
                    offers.append(
                        (rate(price, taken), row, cut[row, step].item() - (cut[row, step - 1].item() if step else 0))
                    )
            _, row, taken = min(offers) if rises else max(offers)
            if over and gone + taken > wanted:
                break
            steps[row], gone = steps[row] + 1, gone + taken
        return torch.tensor(steps)

    return budget


BUDGET = Algorithm(
    "cut where a block is cheapest, step by step; it is best only if costs add up and steps get more expensive.",
    _by_sorting(),
    [
        _budget_case(3 * seed, matrices, levels, share)
        for seed, (matrices, levels, share) in enumerate(
            [(3, 1, 0.5), (4, 2, 0.5), (6, 3, 0.3), (8, 2, 0.7), (5, 4, 0.0), (5, 3, 1.0), (12, 2, 0.4), (9, 3, 0.6)]
        )
    ],
    {
        "that takes what costs least, however little it cuts: divide by the blocks":
            _by_sorting(lambda price, taken: price),
        "that takes the most expensive first": _by_sorting(rises=False),
        "that takes the largest first, whatever it costs": _by_sorting(lambda price, taken: -taken),
        "a step starts at the level reached so far: take the differences between levels": _by_sorting(whole=True),
        "that stops one step too early: at least as many as wanted have to go": _by_sorting(over=True),
        "that spreads the cuts evenly, whatever they cost":
            lambda costs, cut, wanted: _even(costs, cut, wanted),
    },
)  # fmt: skip


def _even(costs: Tensor, cut: Tensor, wanted: int) -> Tensor:
    steps, taken = torch.zeros(len(costs), dtype=torch.long), torch.diff(cut, dim=1, prepend=torch.zeros(len(cut), 1))
    gone = 0
    for level, row in product(range(costs.shape[1]), range(len(costs))):
        if gone >= wanted:
            break
        steps[row], gone = level + 1, gone + taken[row, level].item()
    return steps


# ---- wanda_mask


def _two_of_four(scores=lambda weight, norms: weight.abs() * norms):
    return lambda weight, norms: patterns.half_mask(_positive(scores(weight, norms)), 4)


def _positive(scores: Tensor) -> Tensor:
    """The same order, all above zero."""
    return scores - scores.min() + 1


WANDA = Algorithm(
    "a small weight with a loud input may matter more than a large one with a quiet input.",
    _two_of_four(),
    [
        {"weight": random(seed, *shape), "norms": _uniform(seed + 50, shape[1]) * 5 + 0.1}
        for seed, shape in enumerate([(4, 8), (8, 4), (3, 16), (16, 16), (1, 12), (5, 64)])
    ],
    {
        "the inputs' norms are left out: that is magnitude": _two_of_four(lambda w, n: w.abs()),
        "the sign counts there: take the weight's size": _two_of_four(lambda w, n: w * n),
        "that keeps the two smallest of four": _two_of_four(lambda w, n: -(w.abs() * n)),
        "divided by the norms: a loud input makes a weight matter more": _two_of_four(lambda w, n: w.abs() / n),
        "that keeps half of a row, wherever it is: keep two of every four":
            lambda w, n: patterns.half_mask(_positive(w.abs() * n), None),
        "that keeps half of every eight": lambda w, n: patterns.half_mask(_positive(w.abs() * n), 8)
            if w.shape[1] % 8 == 0 else patterns.half_mask(_positive(w.abs() * n), 4),
        "that keeps one of every two: two of every four leave more choice":
            lambda w, n: patterns.half_mask(_positive(w.abs() * n), 2),
        "that is the masked weight, not the mask": lambda w, n: w * _two_of_four()(w, n),
    },
)  # fmt: skip


# ---- surgery


def _solved(weight: Tensor, products: Tensor, index: int) -> Tensor:
    """By the normal equations of the weights that stay, in doubles."""
    rest = torch.arange(len(weight)) != index
    weight, products = weight.double(), products.double()
    made = torch.zeros_like(weight)
    made[rest] = weight[rest] + weight[index] * torch.linalg.solve(products[rest][:, rest], products[rest, index])
    return made


def _cut_only(weight: Tensor, products: Tensor, index: int) -> Tensor:
    return weight * (torch.arange(len(weight)) != index)


def _with(matrix, sign: float = -1.0, divide: bool = True):
    """The formula with another matrix for the inverse, another sign, or without its division."""

    def made(weight: Tensor, products: Tensor, index: int) -> Tensor:
        found = matrix(products.double())
        scale = weight[index].double() / (found[index, index] if divide else 1)
        return weight.double() + sign * scale * found[:, index]

    return made


def _products(seed: int, n: int) -> Tensor:
    given = random(seed, 4 * n, n) @ random(seed + 1, n, n)  # inputs that depend on one another
    return given.T @ given / len(given) + 0.1 * torch.eye(n)


SURGERY = Algorithm(
    "where inputs go together, one weight can stand in for another: that is why OBS beats any score alone.",
    _solved,
    [
        {"weight": random(seed, n), "products": _products(seed + 20, n), "index": index}
        for seed, (n, index) in enumerate([(2, 0), (3, 2), (5, 1), (8, 4), (12, 11)])
    ],
    {
        "the others do not change there: let them make up for what is cut": _cut_only,
        "use the inverse of the products, not the products": _with(lambda p: p),
        "the sign is reversed: the weight at the index has to become zero": _with(torch.linalg.inv, 1.0),
        "divide by the inverse's diagonal at the index, or the weight there does not become zero":
            _with(torch.linalg.inv, divide=False),
        "nothing is cut": lambda weight, products, index: weight,
    },
)  # fmt: skip


# ---- neuron_scores


def _moved(given: Tensor, column: Tensor) -> Tensor:
    """By what the outputs move, token by token, when a neuron gives its mean."""
    off = (given - given.mean(0)).double()
    return torch.stack([torch.outer(off[:, n], column[:, n].double()).norm(dim=1).square().mean().sqrt()
                        for n in range(given.shape[1])])  # fmt: skip


NEURONS = Algorithm(
    "a neuron that always gives the same can go, however large its weights are: a bias says the same.",
    _moved,
    [
        {"given": random(seed, tokens, neurons) + 2 * random(seed + 1, 1, neurons),
         "column": random(seed + 2, outputs, neurons)}
        for seed, (tokens, neurons, outputs) in enumerate([(5, 3, 2), (20, 6, 4), (50, 8, 8), (7, 1, 3)])
    ],
    {
        "the mean is left behind, so that only what differs from it counts":
            lambda g, c: g.square().mean(0).sqrt() * c.norm(dim=0),
        "what reads the neurons is left out: multiply by the norms of the columns": lambda g, c: g.std(0, correction=0),
        "only the weights are looked at there": lambda g, c: c.norm(dim=0),
        "that is the mean itself, which a bias can take over": lambda g, c: g.mean(0).abs() * c.norm(dim=0),
        "those are mean squares: take the root": lambda g, c: g.var(0, correction=0) * c.square().sum(0),
        "`std` divides by one token fewer by default: `correction=0`": lambda g, c: g.std(0) * c.norm(dim=0),
        "that is the mean size of the change: square, take the mean, take the root":
            lambda g, c: (g - g.mean(0)).abs().mean(0) * c.norm(dim=0),
    },
)  # fmt: skip


# ---- quantize


def _numbers(weight: Tensor, scales: Tensor, rounding=torch.round, keep: bool = True) -> tuple[Tensor, Tensor]:
    numbers = rounding(weight / scales[:, None])
    return (torch.where(numbers == 0, weight.sign(), numbers) if keep else numbers), scales


def _largest(weight: Tensor) -> Tensor:
    return weight.abs().amax(1)


QUANTIZE = Algorithm(
    "a row's largest weight sets the scale of all; where it is an outlier, the others are hard to tell apart.",
    quantization.quantize,
    [{"weight": random(seed, *shape) ** power} for seed, (shape, power) in enumerate([((4, 8), 1), ((3, 50), 3),
     ((16, 4), 1), ((8, 200), 3), ((1, 30), 5)])],
    {
        "use one scale per row, not one for all":
            lambda w: _numbers(w, (w.abs().max() / 127).expand(len(w))),
        "the scale is the largest weight over 127, so that the largest number is 127":
            lambda w: _numbers(w, _largest(w) / 128),
        "eight bits with a sign go to 127, not to 255": lambda w: _numbers(w, _largest(w) / 255),
        "negative weights are weights, too: the largest in size sets the scale":
            lambda w: _numbers(w, w.amax(1).clamp_min(1e-9) / 127),
        "that cuts off; round to the nearest": lambda w: _numbers(w, _largest(w) / 127, torch.trunc),
        "weights that are not zero become zero there: give them 1 or -1":
            lambda w: _numbers(w, _largest(w) / 127, keep=False),
        "those are the weights again: return the numbers and the scales":
            lambda w: (quantization.dequantize(*quantization.quantize(w)), _largest(w) / 127),
        "scales are multiplied by, not divided: weight = number * scale":
            lambda w: (_numbers(w, _largest(w) / 127)[0], 127 / _largest(w)),
    },
)  # fmt: skip
