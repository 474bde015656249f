"""Answers to the functions of the later notebooks: of each twenty right ones, twenty wrong ones and ten lazy ones."""

import heapq
from itertools import product

import numpy as np
import torch


def combined(make, *choices):
    """A function for each combination of choices, by their names."""
    return {" ".join(names): make(*(c[n] for c, n in zip(choices, names, strict=True))) for names in product(*choices)}


FORMS = {"tensor": lambda x: x, "numpy": lambda x: x.numpy(), "list": lambda x: x.tolist()}
TWO_FORMS = {name: FORMS[name] for name in ("tensor", "numpy")}
LAZY = {
    "nothing": lambda *_: None,
    "dots": lambda *_: ...,
    "text": lambda *_: "later",
    "zero": lambda *_: 0,
    "the first": lambda first, *_: first,
    "zeros": lambda first, *_: torch.zeros_like(first),
    "ones": lambda first, *_: torch.ones_like(first),
    "random": lambda first, *_: torch.rand(first.shape),
    "mean": lambda first, *_: first.mean(),
    "a row": lambda first, *_: first[0],
    "truth": lambda first, *_: first > 0,
}


# ---- budget: the price of a step, a way to take the cheapest, and the form of what is returned


def stepped(table):
    return np.diff(np.asarray(table, float), axis=1, prepend=0)


PRICES = {
    "per block": lambda costs, cut: stepped(costs) / stepped(cut),
    "in doubles": lambda costs, cut: stepped(costs.double()) / stepped(cut.double()),
    "scaled": lambda costs, cut: 1000 * stepped(costs) / stepped(cut),
    "by loops": lambda costs, cut: np.array([
        [(row[n] - (row[n - 1] if n else 0)) / (taken[n] - (taken[n - 1] if n else 0)) for n in range(len(row))]
        for row, taken in zip(costs.tolist(), cut.tolist(), strict=True)
    ]),
}  # fmt: skip
NO_PRICES = {
    "not per block": lambda costs, cut: stepped(costs),
    "from the whole": lambda costs, cut: np.asarray(costs) / np.asarray(cut),
    "dearest": lambda costs, cut: -stepped(costs) / stepped(cut),
    "largest": lambda costs, cut: -stepped(cut),
    "smallest": lambda costs, cut: stepped(cut),
    "upside down": lambda costs, cut: stepped(cut) / stepped(costs),
    "times": lambda costs, cut: stepped(costs) * stepped(cut),
    "as they come": lambda costs, cut: np.zeros(costs.shape),
    "by lot": lambda costs, cut: np.random.default_rng(0).random(costs.shape),
    "whole cost": lambda costs, cut: np.asarray(costs) / stepped(cut),
}


def by_scanning(prices, taken, wanted, over=0):
    steps, gone = np.zeros(len(prices), int), 0
    while gone < wanted + over and (steps < prices.shape[1]).any():
        rates = [prices[row, step] if step < prices.shape[1] else np.inf for row, step in enumerate(steps)]
        row = int(np.argmin(rates))
        gone, steps[row] = gone + taken[row, steps[row]], steps[row] + 1
    return steps


def by_heap(prices, taken, wanted):
    steps, gone, heap = np.zeros(len(prices), int), 0, [(prices[row, 0], row) for row in range(len(prices))]
    heapq.heapify(heap)
    while gone < wanted and heap:
        _, row = heapq.heappop(heap)
        gone, steps[row] = gone + taken[row, steps[row]], steps[row] + 1
        if steps[row] < prices.shape[1]:
            heapq.heappush(heap, (prices[row, steps[row]], row))
    return steps


def budgeting(price, take, form):
    return lambda costs, cut, wanted: form(torch.from_numpy(take(price(costs, cut), stepped(cut), wanted)))


TAKES = {"scan": by_scanning, "heap": by_heap}
NO_TAKES = {
    "too many": lambda *case: by_scanning(*case, over=5),
    "too few": lambda *case: by_scanning(*case, over=-5),
    "one each": lambda prices, *_: np.ones(len(prices), int),
    "none": lambda prices, *_: np.zeros(len(prices), int),
    "all": lambda prices, *_: np.full(len(prices), prices.shape[1]),
}


# ---- wanda_mask: a score, a choice of two of four, and the form

RATED = {
    "size times norm": lambda w, n: w.abs() * n,
    "size of the product": lambda w, n: (w * n).abs(),
    "squared": lambda w, n: w.square() * n.square(),
}
NOT_RATED = {
    "magnitude": lambda w, n: w.abs(), "with sign": lambda w, n: w * n, "divided": lambda w, n: w.abs() / n,
    "norms alone": lambda w, n: n.expand_as(w), "minus": lambda w, n: -w.abs() * n,
    "root": lambda w, n: w.abs() * n**0.5,
    "norm squared": lambda w, n: w.abs() * n**2, "weight": lambda w, n: w, "sum": lambda w, n: w.abs() + n,
    "places": lambda w, n: torch.arange(w.numel()).view(w.shape).float(),
}  # fmt: skip


def by_topk(scores):
    grouped = scores.reshape(len(scores), -1, 4)
    return torch.zeros_like(grouped).scatter(-1, grouped.topk(2).indices, 1).reshape(scores.shape).bool()


def by_ranks(scores):
    grouped = scores.numpy().reshape(len(scores), -1, 4)
    return torch.from_numpy((np.argsort(np.argsort(-grouped, -1), -1) < 2).reshape(scores.shape))


def by_limit(scores):
    grouped = scores.reshape(len(scores), -1, 4)
    return (grouped >= grouped.sort(-1).values[..., 2:3]).reshape(scores.shape)


CHOSEN = {"topk": by_topk, "ranks": by_ranks, "limit": by_limit}
NOT_CHOSEN = {
    "half a row": lambda s: s > s.median(1, keepdim=True).values,
    "one of four": lambda s: (lambda g: (g >= g.amax(-1, keepdim=True)).reshape(s.shape))(s.reshape(len(s), -1, 4)),
    "three of four": lambda s: (lambda g: (g > g.amin(-1, keepdim=True)).reshape(s.shape))(s.reshape(len(s), -1, 4)),
    "one of two": lambda s: (lambda g: (g >= g.amax(-1, keepdim=True)).reshape(s.shape))(s.reshape(len(s), -1, 2)),
    "pruned": lambda s: ~by_topk(s),
}


def masking(rate, choose, form):
    return lambda weight, norms: form(choose(rate(weight, norms)))


MASKS = {"tensor": lambda x: x, "floats": lambda x: x.float(), "numpy": lambda x: x.numpy()}


# ---- surgery: an inverse, a formula, and the form

INVERSES = {
    "inv": torch.linalg.inv,
    "solve": lambda p: torch.linalg.solve(p, torch.eye(len(p), dtype=p.dtype)),
    "cholesky": lambda p: torch.cholesky_inverse(torch.linalg.cholesky(p)),
    "pinv": torch.linalg.pinv,
}
NO_INVERSES = {
    "products": lambda p: p, "diagonal": lambda p: torch.diag(1 / p.diagonal()), "eye": lambda p: torch.eye(len(p)),
    "square": lambda p: p @ p, "half": lambda p: torch.linalg.inv(p + 0.1 * torch.eye(len(p), dtype=p.dtype)),
}  # fmt: skip
OPERATIONS = {
    "formula": lambda w, h, q: w - w[q] / h[q, q] * h[:, q],
    "row": lambda w, h, q: w - h[q] * (w[q] / h[q, q]),
}
NO_OPERATIONS = {
    "cut only": lambda w, h, q: w * (torch.arange(len(w)) != q), "plus": lambda w, h, q: w + w[q] / h[q, q] * h[:, q],
    "not divided": lambda w, h, q: w - w[q] * h[:, q], "not weighted": lambda w, h, q: w - h[:, q] / h[q, q],
    "next": lambda w, h, q: w - w[q - 1] / h[q - 1, q - 1] * h[:, q - 1],
    "change": lambda w, h, q: -w[q] / h[q, q] * h[:, q],
}  # fmt: skip


def operating(inverse, operation, form):
    return lambda weight, products, index: form(operation(weight.double(), inverse(products.double()).double(), index))


# ---- neuron_scores: how much a neuron moves, what reads it, and the form

MOVES = {
    "std": lambda g: g.std(0, correction=0),
    "centred": lambda g: (g - g.mean(0)).square().mean(0).sqrt(),
    "var": lambda g: g.var(0, correction=0).sqrt(),
    "moments": lambda g: (g.double().square().mean(0) - g.double().mean(0).square()).sqrt(),
}
NO_MOVES = {
    "size": lambda g: g.square().mean(0).sqrt(), "mean": lambda g: g.mean(0), "default std": lambda g: g.std(0),
    "var": lambda g: g.var(0, correction=0), "largest": lambda g: g.abs().amax(0),
    "one": lambda g: torch.ones(g.shape[1]),
    "mean size": lambda g: g.abs().mean(0), "mean deviation": lambda g: (g - g.mean(0)).abs().mean(0),
    "sum": lambda g: (g - g.mean(0)).square().sum(0).sqrt(), "range": lambda g: g.amax(0) - g.amin(0),
}  # fmt: skip
READ = {
    "norm": lambda c: c.norm(dim=0),
    "squares": lambda c: c.square().sum(0).sqrt(),
    "linalg": lambda c: torch.linalg.vector_norm(c, dim=0),
}
NOT_READ = {
    "left out": lambda c: torch.ones(c.shape[1]), "mean": lambda c: c.abs().mean(0),
    "sum": lambda c: c.abs().sum(0) * 1.5,
    "rms": lambda c: c.square().mean(0).sqrt() * 3, "squared": lambda c: c.square().sum(0),
}  # fmt: skip


def scoring(moves, read, form):
    return lambda given, column: form((moves(given) * read(column)).double())


# ---- quantize: the scales, the numbers, and the form

SCALES = {
    "amax": lambda w: w.abs().amax(1) / 127,
    "max and min": lambda w: torch.maximum(w.amax(1), -w.amin(1)) / 127,
    "norm": lambda w: w.norm(float("inf"), dim=1) / 127,
}
NO_SCALES = {
    "whole": lambda w: (w.abs().max() / 127).expand(len(w)), "128": lambda w: w.abs().amax(1) / 128,
    "255": lambda w: w.abs().amax(1) / 255, "signed": lambda w: w.amax(1) / 126.5, "std": lambda w: w.std(1) / 30,
    "seven": lambda w: w.abs().amax(1) / 7,
}  # fmt: skip
NUMBERS = {
    "where": lambda x, w: torch.where(x.round() == 0, w.sign(), x.round()),
    "larger": lambda x, w: x.abs().round().clamp(min=1) * w.sign(),
    "numpy": lambda x, w: torch.from_numpy(np.where(np.rint(x.numpy()) == 0, np.sign(w.numpy()), np.rint(x.numpy()))),
}
NO_NUMBERS = {
    "zeros": lambda x, w: x.round(), "cut off": lambda x, w: torch.where(x.trunc() == 0, w.sign(), x.trunc()),
    "floor": lambda x, w: x.floor(), "not rounded": lambda x, w: x, "size": lambda x, w: x.abs().round().clamp(min=1),
}  # fmt: skip
PAIRS = {
    "floats": lambda n, s: (n, s),
    "int8": lambda n, s: (n.to(torch.int8), s),
    "column": lambda n, s: (n.numpy(), s[:, None].numpy()),
}


def rounding(scales, numbers, form):
    def function(weight):
        found = scales(weight)
        return form(numbers(weight / found[:, None], weight), found)

    return function


RIGHT_ANSWERS = {
    "budget": combined(budgeting, PRICES, TAKES, FORMS),
    "wanda_mask": combined(masking, RATED, CHOSEN, MASKS),
    "surgery": combined(operating, INVERSES, OPERATIONS, FORMS),
    "neuron_scores": combined(scoring, MOVES, READ, FORMS),
    "quantize": combined(rounding, SCALES, NUMBERS, PAIRS),
}
WRONG_ANSWERS = {
    "budget": combined(budgeting, NO_PRICES, {"scan": by_scanning}, TWO_FORMS)
    | combined(budgeting, {"per block": PRICES["per block"]}, NO_TAKES, {"tensor": FORMS["tensor"]}),
    "wanda_mask": combined(masking, NOT_RATED, {"topk": by_topk}, {name: MASKS[name] for name in ("tensor", "floats")})
    | combined(masking, {"size times norm": RATED["size times norm"]}, NOT_CHOSEN, {"tensor": MASKS["tensor"]}),
    "surgery": combined(operating, NO_INVERSES, OPERATIONS, TWO_FORMS)
    | combined(operating, {"inv": INVERSES["inv"]}, NO_OPERATIONS, {"tensor": FORMS["tensor"]}),
    "neuron_scores": combined(scoring, NO_MOVES, {"norm": READ["norm"]}, TWO_FORMS)
    | combined(scoring, {"std": MOVES["std"]}, NOT_READ, {"tensor": FORMS["tensor"]}),
    "quantize": combined(rounding, NO_SCALES, NUMBERS, {"floats": PAIRS["floats"]})
    | combined(rounding, {"amax": SCALES["amax"]}, NO_NUMBERS, {"floats": PAIRS["floats"]}),
}  # fmt: skip
LAZY_ANSWERS = {name: dict(LAZY) for name in RIGHT_ANSWERS}
HINTED = [
    ("budget", "not per block scan tensor", "divide by the blocks"),
    ("budget", "dearest scan tensor", "takes the most expensive first"),
    ("budget", "largest scan tensor", "the largest first"),
    ("wanda_mask", "magnitude topk tensor", "that is magnitude"),
    ("wanda_mask", "with sign topk tensor", "the sign counts there"),
    ("wanda_mask", "divided topk tensor", "divided by the norms"),
    ("wanda_mask", "size times norm one of two tensor", "one of every two"),
    ("surgery", "products formula tensor", "not the products"),
    ("surgery", "inv cut only tensor", "make up for what is cut"),
    ("surgery", "inv plus tensor", "the sign is reversed"),
    ("neuron_scores", "size norm tensor", "only what differs from it counts"),
    ("neuron_scores", "default std norm tensor", "`correction=0`"),
    ("neuron_scores", "std left out tensor", "what reads the neurons is left out"),
    ("quantize", "whole where floats", "not one for all"),
    ("quantize", "255 where floats", "not to 255"),
    ("quantize", "amax zeros floats", "become zero there"),
    ("quantize", "amax cut off floats", "round to the nearest"),
]
