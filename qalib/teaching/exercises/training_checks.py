"""What students write of training: inputs, what the package makes of them, and the mistakes worth a word."""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from qalib.model import blocks
from qalib.model.blocks import Block
from qalib.pruning import losses, movement
from qalib.teaching.exercises.algorithm_checks import Algorithm
from qalib.teaching.exercises.mask_checks import random


def _through(function: Any, scores: Tensor, threshold: float, gradient: Tensor) -> Any:
    """The mask that a function makes, and the gradient of the scores that it gives for one of the mask."""
    mask = getattr(function, "apply", function)(scores.requires_grad_(), threshold)
    if mask is None or mask is ...:
        return None
    if isinstance(mask, Tensor) and mask.requires_grad:
        mask.backward(gradient)
    return mask, torch.zeros_like(scores) if scores.grad is None else scores.grad


def _by_mask(scores: Tensor, threshold: float, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What the package's mask makes of weights that are all 1, each with a score of its own."""
    held = movement.Scores((scores.shape[0], scores.shape[1]), weights=1)
    held.values.data, held.threshold = scores, threshold
    mask = movement.Mask(held)(torch.ones_like(scores))
    mask.backward(gradient)
    return mask.detach(), cast(Tensor, held.values.grad)


def _slope(of):
    """The right mask with another gradient, `of(gradient, mask, scores)`."""
    return lambda scores, threshold, gradient: (
        (mask := _by_mask(scores, threshold, gradient)[0]), of(gradient, mask, scores),
    )  # fmt: skip


STRAIGHT_THROUGH = Algorithm(
    "what was pruned goes on learning, since its score has a gradient, too.",
    _by_mask,
    [
        {"scores": scores, "threshold": threshold, "gradient": random(seed + 10, *scores.shape)}
        for seed, (scores, threshold) in enumerate([
            (random(0, 4, 3), 0.0), (random(1, 2, 5), 0.5), (random(2, 6, 1), -1.0),
            (torch.tensor([[0.5, 0.25], [0.25, -1]]), 0.25), (random(3, 3, 3), 9.0), (random(4, 3, 3), -9.0),
        ])
    ],
    {
        "the gradient is masked: it has to reach the scores of what is pruned, too":
            _slope(lambda g, mask, _: g * mask),
        "that is the true slope, with which nothing can be learnt: pass the gradient on": _slope(lambda g, *_: 0 * g),
        "the gradient has the wrong sign": _slope(lambda g, *_: -g),
        "the gradient that comes in is passed on, not replaced by 1": _slope(lambda g, *_: torch.ones_like(g)),
        "that is the slope of a sigmoid: straight-through has 1":
            _slope(lambda g, _, scores: g * scores.sigmoid() * (1 - scores.sigmoid())),
        "the gradient is multiplied by the scores": _slope(lambda g, _, scores: g * scores),
        "a score at the threshold is not above it":
            lambda scores, threshold, gradient: ((scores >= threshold).float(), gradient),
        "that marks what is pruned": lambda scores, threshold, gradient: ((scores <= threshold).float(), gradient),
        "those are the scores that are kept; a mask is 1 there":
            lambda scores, threshold, gradient: (scores * (scores > threshold), gradient * (scores > threshold)),
    },
    call=_through,
    remark=lambda found, expected, case: None if torch.equal(found[0], expected[0]) else "the mask is wrong: "
    "1 where a score is above the threshold, else 0",
)  # fmt: skip


# ---- movement_step


def _by_autograd(scores: Tensor, weight: Tensor, gradient: Tensor, block: Block, learning_rate: float) -> Tensor:
    held = movement.Scores((scores.shape[0], scores.shape[1]), weights=math.prod(block))
    held.values.data, held.threshold = scores, 0.0
    movement.Mask(held)(weight).backward(gradient)
    return scores - learning_rate * cast(Tensor, held.values.grad)


def _moved(by, sign: int = -1):
    """A step by another sum over the blocks of gradients and weights."""
    return lambda scores, weight, gradient, block, rate: (
        scores + sign * rate * by(blocks.split(gradient, block), blocks.split(weight, block))
    )


MOVEMENT_STEP = Algorithm(
    "a score rises where descent moves its block away from zero.",
    _by_autograd,
    [
        {"scores": random(seed, *grid), "weight": random(seed + 10, grid[0] * block[0], grid[1] * block[1]),
         "gradient": random(seed + 20, grid[0] * block[0], grid[1] * block[1]), "block": block, "learning_rate": rate}
        for seed, (grid, block, rate) in enumerate([
            ((2, 2), (2, 2), 0.1), ((3, 2), (4, 1), 1.0), ((1, 5), (2, 3), 0.01), ((4, 4), (1, 1), 0.5),
            ((2, 3), (8, 8), 0.0),
        ])
    ],
    {
        "the sign is reversed: descent goes against the gradient":
            _moved(lambda g, w: (g * w).sum((-1, -2)), sign=1),
        "the mask multiplies the whole block: sum, do not average": _moved(lambda g, w: (g * w).mean((-1, -2))),
        "signs matter: towards zero and away from it must not look alike":
            _moved(lambda g, w: (g * w).abs().sum((-1, -2))),
        "the weights are missing: dL/dmask = dL/dW' * W": _moved(lambda g, w: g.sum((-1, -2))),
        "those are the weights' magnitudes, not their movement": _moved(lambda g, w: w.square().sum((-1, -2))),
        "that sums gradient and weight before it multiplies them":
            _moved(lambda g, w: g.sum((-1, -2)) * w.sum((-1, -2))),
        "the gradient is masked: what is pruned has to move, too": lambda scores, weight, gradient, block, rate:
            scores - rate * (scores > 0) * blocks.split(gradient * weight, block).sum((-1, -2)),
        "the learning rate is missing": lambda scores, weight, gradient, block, rate:
            _by_autograd(scores, weight, gradient, block, 1.0),
        "that is the step; the scores add it up": lambda scores, *case: _by_autograd(scores, *case) - scores,
        "that is the gradient; the scores move by it": lambda scores, weight, gradient, block, rate:
            blocks.split(gradient * weight, block).sum((-1, -2)),
    },
)  # fmt: skip


# ---- distillation_loss


def _divergence(mine: Tensor, theirs: Tensor) -> Tensor:
    return theirs.exp() * (theirs - mine)


def _kl(student: Tensor, teacher: Tensor, of=_divergence, dim: int = -1) -> Tensor:
    return of(student.log_softmax(dim), teacher.log_softmax(dim)).sum(-1).mean()


def _scaled(by):
    """The loss times `by(temperature, shape)`."""
    return lambda s, t, temperature: losses.distillation_loss(s, t, temperature) * by(temperature, s.shape)


def _padded(logits: Tensor, padding: int) -> Tensor:
    if padding:
        logits[..., -padding:] = torch.finfo(torch.float32).min
    return logits


DISTILLATION = Algorithm(
    "with the square of the temperature the gradients keep their size at every temperature.",
    losses.distillation_loss,
    [
        {"student": _padded(2 * random(seed, *shape), padding),
         "teacher": _padded(3 * random(seed + 10, *shape), padding), "temperature": temperature}
        for seed, (shape, temperature, padding) in enumerate([
            ((3, 2, 5), 2.0, 0), ((1, 2, 8), 4.0, 0), ((4, 2, 3), 1.0, 0), ((2, 2, 16), 2.0, 6), ((1, 2, 1), 2.0, 0),
        ])
    ],
    {
        "the temperature squared is missing": _scaled(lambda t, _: t**-2),
        "the temperature is not squared": _scaled(lambda t, _: 1 / t),
        "`F.kl_div` divides by the length, too, by default (reduction 'mean'): mean over batch, start and end only":
            _scaled(lambda _, shape: 1 / shape[-1]),
        "`F.kl_div` with 'batchmean' divides by the batch only: the mean is over start and end, too":
            _scaled(lambda _, shape: shape[1]),
        "that is the sum; take the mean over batch, start and end": _scaled(lambda _, shape: shape[0] * shape[1]),
        "that is in bits: nats take the natural logarithm, not log2": _scaled(lambda *_: 1 / math.log(2)),
        "the sign is reversed": _scaled(lambda *_: -1),
        "teacher and student are interchanged": lambda s, t, temperature: losses.distillation_loss(t, s, temperature),
        "that is the cross-entropy: the teacher's own entropy is still in it":
            lambda s, t, temperature: temperature**2 * _kl(s / temperature, t / temperature, lambda m, h: -h.exp() * m),
        "the logits are not divided by the temperature": lambda s, t, temperature: temperature**2 * _kl(s, t),
        "the teacher's logits are to be divided by the temperature, too":
            lambda s, t, temperature: temperature**2 * _kl(s / temperature, t),
        "multiplying by the temperature makes sharper: divide":
            lambda s, t, temperature: temperature**2 * _kl(s * temperature, t * temperature),
        "the softmax is over the wrong dimension: positions are the last":
            lambda s, t, temperature: temperature**2 * _kl(s / temperature, t / temperature, dim=1),
        "that is the mean squared difference of the logits":
            lambda s, t, temperature: functional.mse_loss(s.clamp(min=-1e4), t.clamp(min=-1e4)),
    },
    remark=lambda found, *_: "it is nan: padding has probability 0, and 0 * log(0 / 0) is no number; `log_softmax` "
    "stays finite" if found[0].isnan().any() else None,
)  # fmt: skip
