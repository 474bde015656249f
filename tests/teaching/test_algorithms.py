"""Functions that students write: of each twenty right ones, twenty wrong ones and ten lazy ones."""

import numpy as np
import pytest
import torch
from later_answers import HINTED, LAZY_ANSWERS, RIGHT_ANSWERS, WRONG_ANSWERS, combined
from torch.nn import functional

from qalib.model import blocks
from qalib.pruning import magnitude, movement
from qalib.teaching import exercises
from qalib.teaching.exercises import algorithm_checks, checks
from qalib.teaching.lessons import algorithms


def named(*functions):
    return {f"{number}": function for number, function in enumerate(functions)}


# ---- magnitude_mask: a score of the blocks, a choice of them, and the form of what is returned

SCORES = {
    "rms": lambda t: t.square().mean((-1, -2)).sqrt(),
    "mean square": lambda t: (t**2).mean((2, 3)),
    "sum of squares": lambda t: t.pow(2).sum((-1, -2)),
    "norm": lambda t: torch.linalg.matrix_norm(t),
}
NO_SCORES = {
    "mean absolute": lambda t: t.abs().mean((-1, -2)),
    "mean": lambda t: t.mean((-1, -2)),
    "sum": lambda t: t.sum((-1, -2)),
    "largest": lambda t: t.abs().amax((-1, -2)),
    "median": lambda t: t.abs().flatten(2).median(-1).values,
    "standard deviation": lambda t: (t - t.mean((-1, -2), keepdim=True)).square().mean((-1, -2)),
    "first weight": lambda t: t[..., 0, 0].abs(),
    "random": lambda t: torch.rand(t.shape[:2], generator=torch.Generator().manual_seed(0)),
    "place": lambda t: torch.arange(t.shape[0] * t.shape[1]).view(t.shape[:2]).float(),
}


def top(scores, count):
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort(descending=True)[:count]] = True
    return kept.view_as(scores)


def above(scores, count):
    limits = torch.cat([scores.flatten().sort(descending=True).values, torch.tensor([-1.0])])
    return scores > limits[count]


def ranked(scores, count):
    flat = scores.numpy().ravel()
    return torch.from_numpy((np.argsort(np.argsort(-flat)) < count).reshape(scores.shape))


def masking(score, choose, form):
    def function(weight, keep_fraction, block):
        scores = score(blocks.split(weight, block))
        return form(choose(scores, keep_fraction * scores.numel()), block)

    return function


def whole(choose):
    return lambda scores, count: choose(scores, int(count))


CHOICES = {"top": whole(top), "above": whole(above), "ranked": whole(ranked)}
FORMS = {
    "bool": blocks.expand,
    "numpy floats": lambda kept, block: blocks.expand(kept, block).numpy().astype("float32"),
}
NO_CHOICES = {
    "one too few": lambda scores, count: top(scores, max(0, int(count) - 1)),
    "one too many": lambda scores, count: top(scores, int(count) + 1),
    "rounded up": lambda scores, count: top(scores, int(np.ceil(count))),
    "smallest": lambda scores, count: top(-scores, int(count)),
    "all": lambda scores, count: top(scores, scores.numel()),
    "half": lambda scores, count: top(scores, scores.numel() // 2),
    "half of the largest score": lambda scores, count: scores > 0.5 * scores.max(),
    "off the end": lambda scores, count: scores >= scores.flatten().sort(descending=True).values[int(count) - 1],
}
NO_FORMS = {
    "a truth value a block": lambda kept, block: kept,
    "pruned": lambda kept, block: ~blocks.expand(kept, block),
    "transposed": lambda kept, block: blocks.expand(kept.T, block[::-1]),
    "indices": lambda kept, block: blocks.expand(kept, block).nonzero(),
    "nothing": lambda kept, block: None,
    "text": lambda kept, block: "kept",
}
package = magnitude.magnitude_mask
LAZY_MASKS = named(
    lambda weight, *_: weight > 0,
    lambda weight, *_: weight != 0,
    lambda weight, *_: torch.ones_like(weight),
    lambda weight, *_: torch.zeros_like(weight),
    lambda weight, keep, _: torch.rand(weight.shape) < keep,
    lambda weight, *_: weight,
    lambda weight, keep, _: weight.abs() >= weight.abs().quantile(1 - keep),
    lambda *_: True,
    lambda weight, keep, block: weight * package(weight, keep, block),
)

# ---- block_product: where the blocks are, how one is multiplied, and how the products come together


def places(kept, values):
    return zip(values, np.argwhere(kept), strict=True)


def by_grid(kept, values):
    rest = iter(values)
    return [(next(rest), (r, c)) for r in range(kept.shape[0]) for c in range(kept.shape[1]) if kept[r, c]]


def by_nonzero(kept, values):
    return [(values[k], place) for k, place in enumerate(zip(*np.nonzero(kept), strict=True))]


def multiplying(where, times, empty):
    def function(values, kept, x):
        height, width = values.shape[1:]
        out = empty((kept.shape[0] * height, x.shape[1]))
        for value, (r, c) in where(kept, values):
            out[r * height : (r + 1) * height] += times(value, x[c * width : (c + 1) * width])
        return out

    return function


WHERE = {"argwhere": places, "grid": by_grid, "nonzero": by_nonzero}
TIMES = {"matmul": np.matmul, "dot": np.dot, "einsum": lambda v, x: np.einsum("ij,jn->in", v, x),
         "columns": lambda v, x: sum(v[:, k, None] * x[k] for k in range(len(x)))}  # fmt: skip
EMPTY = {
    "zeros": np.zeros,
    "single": lambda shape: np.zeros(shape, "float32"),
    "double": lambda shape: np.zeros(shape, float),
}
NO_WHERE = {
    "column by column": lambda kept, values: zip(values, np.argwhere(kept.T)[:, ::-1], strict=True),
    "reversed": lambda kept, values: zip(values[::-1], np.argwhere(kept), strict=True),
    "the first only": lambda kept, values: list(places(kept, values))[:1],
    "all but the last": lambda kept, values: list(places(kept, values))[:-1],
    "twice": lambda kept, values: [*places(kept, values), *places(kept, values)],
    "turned": lambda kept, values: [(value, (c, r)) for value, (r, c) in places(kept, values)],
    "first row": lambda kept, values: [(value, (0, c)) for value, (_, c) in places(kept, values)],
    "first column": lambda kept, values: [(value, (r, 0)) for value, (r, _) in places(kept, values)],
}
NO_TIMES = {
    "size": lambda v, x: np.abs(v) @ x,
    "minus": lambda v, x: -(v @ x),
    "mean": lambda v, x: v @ x / len(x),
    "squares": lambda v, x: v**2 @ x,
    "elementwise": lambda v, x: v[:, :1] * x[:1],
    "flipped": lambda v, x: v[:, ::-1] @ x,
}


def overwriting(values, kept, x):
    (height, width), out = values.shape[1:], np.zeros((len(kept) * values.shape[1], x.shape[1]))
    for value, (r, c) in places(kept, values):
        out[r * height : (r + 1) * height] = value @ x[c * width : (c + 1) * width]
    return out


def dense(values, kept, x):
    (height, width), weight = values.shape[1:], np.zeros((len(kept) * values.shape[1], len(x)), "float32")
    for value, (r, c) in places(kept, values):
        weight[r * height : (r + 1) * height, c * width : (c + 1) * width] = value
    return weight @ x


right_product = multiplying(places, np.matmul, np.zeros)
LAZY_PRODUCTS = named(
    dense,
    lambda values, kept, x: np.zeros((len(kept) * values.shape[1], x.shape[1])),
    lambda values, kept, x: np.ones((len(kept) * values.shape[1], x.shape[1])),
    lambda values, kept, x: np.kron(kept, np.ones(values.shape[1:])) @ x,
    lambda values, kept, x: x,
    lambda values, kept, x: values,
    lambda values, kept, x: values[0] @ x[: values.shape[2]],
    lambda values, kept, x: 0.0,
    lambda values, kept, x: None,
)  # fmt: skip

# ---- straight_through: what goes forward, and what comes back


def function_class(forward, backward):
    class Mask(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores, threshold):
            mask = forward(scores, threshold)
            ctx.save_for_backward(scores, mask)
            return mask

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, *ctx.saved_tensors), None

    return Mask


def plain(forward, backward):
    """Without a class: the difference to the scores is taken out of the graph."""
    return lambda scores, threshold: scores * backward + (forward(scores, threshold) - scores * backward).detach()


STEPS = {
    "float": lambda s, t: (s > t).float(),
    "type": lambda s, t: (s > t).to(s.dtype),
    "where": lambda s, t: torch.where(s > t, 1.0, 0.0),
    "less": lambda s, t: (t < s).float(),
    "not at most": lambda s, t: 1.0 - (s <= t).float(),
    "heaviside": lambda s, t: torch.heaviside(s - t, torch.zeros(())),
    "gt": lambda s, t: s.gt(t).type_as(s),
    "sign": lambda s, t: (s - t).sign().clamp(min=0),
}
PASSED = {"as it is": lambda g, *_: g, "cloned": lambda g, *_: g.clone()}
NO_STEPS = {
    "at least": lambda s, t: (s >= t).float(),
    "below": lambda s, t: (s < t).float(),
    "zero": lambda s, t: (s > 0).float(),
    "sigmoid": lambda s, t: (s - t).sigmoid(),
    "scores": lambda s, t: s * (s > t),
    "two": lambda s, t: 2 * (s > t).float(),
    "truth": lambda s, t: s > t,
}
NOT_PASSED = {
    "masked": lambda g, s, m: g * m,
    "zero": lambda g, s, m: torch.zeros_like(g),
    "minus": lambda g, s, m: -g,
    "one": lambda g, s, m: torch.ones_like(g),
    "sigmoid": lambda g, s, m: g * s.sigmoid() * (1 - s.sigmoid()),
    "score": lambda g, s, m: g * s,
    "other masked": lambda g, s, m: g * (1 - m),
    "half": lambda g, s, m: g / 2,
    "mean": lambda g, s, m: g.mean().expand_as(g),
    "clipped": lambda g, s, m: g.clamp(-1, 1),
    "tanh": lambda g, s, m: g * (1 - s.tanh() ** 2),
    "nothing": lambda g, s, m: None,
}
LAZY_STEPS = named(
    lambda scores, threshold: (scores > threshold).float(),
    lambda scores, threshold: scores > threshold,
    lambda scores, threshold: scores,
    lambda scores, threshold: scores * 0 + 1,
    lambda scores, threshold: torch.ones_like(scores),
    lambda scores, threshold: scores.sigmoid(),
    lambda scores, threshold: functional.relu(scores - threshold),
    lambda scores, threshold: None,
    lambda scores, threshold: torch.round(scores.sigmoid()),
)

# ---- movement_step: the gradient of a block, and what is done with it

SUMS = {
    "split": lambda g, w, b: blocks.split(g * w, b).sum((-1, -2)),
    "split twice": lambda g, w, b: (blocks.split(g, b) * blocks.split(w, b)).sum((2, 3)),
    "einsum": lambda g, w, b: torch.einsum("rchw,rchw->rc", blocks.split(g, b), blocks.split(w, b)),
    "views": lambda g, w, b: (g * w).view(g.shape[0] // b[0], b[0], g.shape[1] // b[1], b[1]).sum((1, 3)),
    "numpy": lambda g, w, b: torch.as_tensor((g * w).numpy().reshape(len(g) // b[0], b[0], -1, b[1]).sum((1, 3))),
}
MOVES = {
    "minus": lambda s, d, rate: s - rate * d,
    "plus minus": lambda s, d, rate: -rate * d + s,
    "in place": lambda s, d, rate: s.sub_(torch.as_tensor(d), alpha=rate),
    "list": lambda s, d, rate: (s - rate * d).tolist(),
}
NO_SUMS = {
    "mean": lambda g, w, b: blocks.split(g * w, b).mean((-1, -2)),
    "absolute": lambda g, w, b: blocks.split(g * w, b).abs().sum((-1, -2)),
    "no weight": lambda g, w, b: blocks.split(g, b).sum((-1, -2)),
    "no gradient": lambda g, w, b: blocks.split(w, b).square().sum((-1, -2)),
    "sum first": lambda g, w, b: blocks.split(g, b).sum((-1, -2)) * blocks.split(w, b).sum((-1, -2)),
    "largest": lambda g, w, b: blocks.split(g * w, b).amax((-1, -2)),
    "sign of weight": lambda g, w, b: blocks.split(g * w.sign(), b).sum((-1, -2)),
    "size of weight": lambda g, w, b: blocks.split(g * w.abs(), b).sum((-1, -2)),
    "rows": lambda g, w, b: blocks.split(g * w, b).sum(-1),
}
NO_MOVES = {
    "up": lambda s, d, rate: s + rate * d,
    "no rate": lambda s, d, rate: s - d,
    "step": lambda s, d, rate: -rate * d,
    "gradient": lambda s, d, rate: d,
    "kept only": lambda s, d, rate: s - rate * d * (s > 0),
    "turned": lambda s, d, rate: (s - rate * d).T,
    "sign only": lambda s, d, rate: s - rate * d.sign(),
    "scaled": lambda s, d, rate: s * (1 - rate * d),
    "divided": lambda s, d, rate: s - d / (rate + 1),
    "nothing": lambda s, d, rate: None,
    "one number": lambda s, d, rate: (s - rate * d).sum(),
}
LAZY_SCORES = named(
    lambda scores, *_: scores,
    lambda scores, *_: -scores,
    lambda scores, *_: torch.zeros_like(scores),
    lambda scores, weight, *_: weight,
    lambda scores, weight, gradient, *_: gradient,
    lambda scores, weight, gradient, block, rate: scores - rate,
    lambda scores, weight, gradient, block, rate: weight - rate * gradient,
    lambda scores, weight, gradient, block, rate: movement.Mask(held(scores)).block_sums(gradient * weight),
    lambda scores, weight, gradient, *_: scores - movement.Mask(held(scores)).block_sums(gradient * weight),
    lambda *_: None,
    lambda *_: 0,
)  # fmt: skip


def held(scores):
    made = movement.Scores(tuple(scores.shape), 1)
    made.values.data = scores
    return made


def moving(total, move):
    return lambda scores, weight, gradient, block, rate: move(scores, total(gradient, weight, block), rate)


# ---- distillation_loss: the divergence of log-probabilities, and the factor before it

DIVERGENCES = {
    "by hand": lambda m, t: (t.exp() * (t - m)).sum(-1).mean(),
    "kl_div": lambda m, t: functional.kl_div(m.flatten(0, 1), t.flatten(0, 1), reduction="batchmean", log_target=True),
    "of probabilities": lambda m, t: functional.kl_div(m, t.exp(), reduction="none").sum(-1).mean(),
    "sum": lambda m, t: functional.kl_div(m, t, reduction="sum", log_target=True) / m[..., 0].numel(),
    "entropy": lambda m, t: (t.exp() * t - t.exp() * m).sum() / (m.shape[0] * m.shape[1]),
}
FACTORS = {
    "squared": lambda value, t: t**2 * value,
    "twice": lambda value, t: value * t * t,
    "numpy": lambda value, t: np.asarray(value) * t**2,
    "number": lambda value, t: value.item() * t**2,
}
NO_DIVERGENCES = {
    "mean": lambda m, t: functional.kl_div(m, t, log_target=True, reduction="mean"),
    "batchmean": lambda m, t: functional.kl_div(m, t, log_target=True, reduction="batchmean"),
    "summed": lambda m, t: functional.kl_div(m, t, log_target=True, reduction="sum"),
    "interchanged": lambda m, t: (m.exp() * (m - t)).sum(-1).mean(),
    "cross-entropy": lambda m, t: -(t.exp() * m).sum(-1).mean(),
    "bits": lambda m, t: (t.exp() * (t - m)).sum(-1).mean() / np.log(2),
    "minus": lambda m, t: (t.exp() * (m - t)).sum(-1).mean(),
    "no log_target": lambda m, t: functional.kl_div(m.flatten(0, 1), t.flatten(0, 1), reduction="batchmean"),
    "quotient": lambda m, t: (t.exp() * (t.exp() / m.exp()).log()).sum(-1).mean(),
    "log2": lambda m, t: (t.exp() * (t.exp() / m.exp()).log2()).sum(-1).mean(),
    "squared": lambda m, t: (t.exp() - m.exp()).square().sum(-1).mean(),
    "starts": lambda m, t: (t.exp() * (t - m)).sum(-1)[:, 0].mean(),
    "hard": lambda m, t: functional.nll_loss(m.flatten(0, 1), t.flatten(0, 1).argmax(-1)),
    "a loss each": lambda m, t: (t.exp() * (t - m)).sum(-1),
}
NO_FACTORS = {
    "missing": lambda value, t: value,
    "not squared": lambda value, t: value * t,
    "divided": lambda value, t: value / t**2,
    "doubled": lambda value, t: 2 * value * t**2,
    "forgotten": lambda value, t: None,
}
LAZY_LOSSES = named(
    lambda s, t, temperature: functional.mse_loss(s, t),
    lambda s, t, temperature: functional.cross_entropy(s.flatten(0, 1), t.flatten(0, 1).argmax(-1)),
    lambda s, t, temperature: functional.kl_div(s, t),
    lambda s, t, temperature: functional.kl_div(s / temperature, t / temperature),
    lambda s, t, temperature: (s - t).abs().mean(),
    lambda s, t, temperature: s,
    lambda s, t, temperature: torch.zeros(()),
    lambda s, t, temperature: None,
    lambda s, t, temperature: temperature**2,
)


def distilling(divergence, factor):
    return lambda s, t, temperature: factor(
        divergence((s / temperature).log_softmax(-1), (t / temperature).log_softmax(-1)), temperature
    )


WRONG_DISTILLATIONS = {
    "no temperature": lambda s, t, T: T**2 * DIVERGENCES["by hand"](s.log_softmax(-1), t.log_softmax(-1)),
    "student's only": lambda s, t, T: T**2 * DIVERGENCES["by hand"]((s / T).log_softmax(-1), t.log_softmax(-1)),
    "multiplied": lambda s, t, T: T**2 * DIVERGENCES["by hand"]((s * T).log_softmax(-1), (t * T).log_softmax(-1)),
    "over start and end": lambda s, t, T: T**2 * DIVERGENCES["by hand"]((s / T).log_softmax(1), (t / T).log_softmax(1)),
}

good, straight = {"rms": SCORES["rms"]}, {"function": 1.0}
RIGHT = {
    "magnitude_mask": combined(masking, SCORES, CHOICES, FORMS),
    "block_product": combined(multiplying, WHERE, TIMES, EMPTY),
    "straight_through": combined(function_class, STEPS, PASSED) | combined(plain, STEPS, straight),
    "movement_step": combined(moving, SUMS, MOVES),
    "distillation_loss": combined(distilling, DIVERGENCES, FACTORS),
}
WRONG = {
    "magnitude_mask": combined(masking, NO_SCORES, {"top": CHOICES["top"]}, {"bool": blocks.expand})
    | combined(masking, good, NO_CHOICES, {"bool": blocks.expand}) | combined(masking, good, CHOICES, NO_FORMS),
    "block_product": combined(multiplying, NO_WHERE, {"matmul": np.matmul}, {"zeros": np.zeros})
    | combined(multiplying, WHERE, NO_TIMES, {"zeros": np.zeros}) | {"overwriting": overwriting, "dense": dense},
    "straight_through": combined(function_class, {"float": STEPS["float"]}, NOT_PASSED)
    | combined(function_class, NO_STEPS, {"as it is": PASSED["as it is"]}) | combined(plain, STEPS, {"half": 0.5}),
    "movement_step": combined(moving, NO_SUMS, {"minus": MOVES["minus"]})
    | combined(moving, {"split": SUMS["split"]}, NO_MOVES),
    "distillation_loss": combined(distilling, NO_DIVERGENCES, {"squared": FACTORS["squared"]})
    | combined(distilling, {"by hand": DIVERGENCES["by hand"]}, NO_FACTORS) | WRONG_DISTILLATIONS,
}  # fmt: skip
LAZY = {
    "magnitude_mask": LAZY_MASKS,
    "block_product": LAZY_PRODUCTS,
    "straight_through": LAZY_STEPS,
    "movement_step": LAZY_SCORES,
    "distillation_loss": LAZY_LOSSES,
}

RIGHT, WRONG, LAZY = RIGHT | RIGHT_ANSWERS, WRONG | WRONG_ANSWERS, LAZY | LAZY_ANSWERS


def each(answers):
    return [
        pytest.param(name, function, id=f"{name}: {key}")
        for name, functions in answers.items()
        for key, function in functions.items()
    ]


def test_there_are_enough():
    assert RIGHT.keys() == WRONG.keys() == LAZY.keys() == checks.ALGORITHMS.keys()
    for answers, count in ((RIGHT, 20), (WRONG, 20), (LAZY, 9)):
        assert all(len(functions) >= count for functions in answers.values())


@pytest.mark.parametrize(("name", "function"), each(RIGHT))
def test_no_right_one_is_refused(name, function):
    assert exercises.check(name, function).right, exercises.check(name, function)


@pytest.mark.parametrize(("name", "function"), each(WRONG) + each(LAZY))
def test_no_wrong_or_lazy_one_is_accepted(name, function):
    verdict = exercises.check(name, function)
    assert not verdict.right and len(repr(verdict)) > len("Not yet: "), verdict


HINTS = [
    ("magnitude_mask", "mean absolute top bool", "mean absolute value"),
    ("magnitude_mask", "mean top bool", "signs cancel"),
    ("magnitude_mask", "rms smallest bool", "that keeps the smallest"),
    ("magnitude_mask", "rms one too few bool", "it keeps 7 of 16 blocks, expected 8"),
    ("magnitude_mask", "rms rounded up bool", "it keeps 3 of 8 blocks, expected 2"),
    (
        "magnitude_mask",
        "rms off the end bool",
        "keep_fraction 0.0, block (2, 2): it keeps 8 of 8 blocks, expected 0",
    ),
    ("magnitude_mask", "rms top a truth value a block", "`blocks.expand`"),
    ("magnitude_mask", "rms top pruned", "that marks what is pruned"),
    ("magnitude_mask", "rms top nothing", "is a `return` missing?"),
    ("block_product", "overwriting", "add, do not overwrite"),
    ("block_product", "dense", "takes 17 MB for 0.002 MB of blocks: it writes the zeros out"),
    ("block_product", "argwhere minus zeros", "that is minus the answer"),
    ("straight_through", "float masked", "the gradient is masked"),
    ("straight_through", "float zero", "the true slope"),
    ("straight_through", "float minus", "the wrong sign"),
    ("straight_through", "float sigmoid", "the slope of a sigmoid"),
    ("straight_through", "at least as it is", "a score at the threshold is not above it"),
    ("movement_step", "split up", "the sign is reversed"),
    ("movement_step", "mean minus", "sum, do not average"),
    ("movement_step", "absolute minus", "signs matter"),
    ("movement_step", "no weight minus", "the weights are missing"),
    ("movement_step", "split kept only", "the gradient is masked"),
    ("movement_step", "split no rate", "the learning rate is missing"),
    ("distillation_loss", "by hand missing", "the temperature squared is missing"),
    ("distillation_loss", "by hand not squared", "the temperature is not squared"),
    ("distillation_loss", "mean squared", "by default (reduction 'mean')"),
    ("distillation_loss", "batchmean squared", "'batchmean' divides by the batch only"),
    ("distillation_loss", "bits squared", "the natural logarithm, not log2"),
    ("distillation_loss", "interchanged squared", "teacher and student are interchanged"),
    ("distillation_loss", "quotient squared", "padding has probability 0"),
    *HINTED,
]


@pytest.mark.parametrize(("name", "key", "hint"), HINTS)
def test_the_mistake_is_named(name, key, hint):
    assert hint in repr(exercises.check(name, WRONG[name][key]))


@pytest.mark.parametrize("name", checks.ALGORITHMS)
def test_what_a_mistake_gives_is_not_right_and_no_other_mistake(name):
    algorithm = checks.ALGORITHMS[name]
    outputs = [
        [algorithm_checks._tensors(of(*algorithm_checks._copies(case))) for case in algorithm.cases]
        for of in (algorithm.right, *algorithm.mistakes.values())
    ]
    for number, found in enumerate(outputs):
        for other in outputs[:number]:
            assert not algorithm_checks._same(found, other), list(algorithm.mistakes)[number - 1]


def test_what_the_function_does_is_said():
    said = {
        "it raises IndexError": lambda weight, *_: weight[weight.shape[0]],
        "it returns str, which is not a tensor": lambda *_: "mask",
        "takes 1 positional argument": lambda weight: weight,
    }
    for text, function in said.items():
        assert text in repr(exercises.check("magnitude_mask", function))
    assert "expected a function, found Tensor" in repr(exercises.check("magnitude_mask", torch.ones(2)))
    assert exercises.check("magnitude_mask", algorithms.magnitude_mask).right


def test_inputs_that_are_overwritten_change_nothing():
    def in_place(weight, keep_fraction, block):
        weight.zero_()
        return torch.ones_like(weight)

    assert not exercises.check("magnitude_mask", in_place).right
    assert exercises.check("magnitude_mask", algorithms.magnitude_mask).right
