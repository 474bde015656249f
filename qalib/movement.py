"""Movement: the two-weight problem that fits on a blackboard, and the same quantities of a real layer.

A score adds up minus gradient times weight, step by step (arXiv 2005.07683, section 3). It rises where descent moves
the weight away from zero and falls where it moves it towards zero, however large the weight is.

Two weights with the loss 1/2 (a - 0.4)^2 + 1/2 (b - 0.6)^2, begun at a = 1, b = 0.1, with learning rate 1/4. The first
gradient is (0.6, -0.5), so that a becomes 1 - 0.15 and b 0.1 + 0.125; the scores are -0.6 * 1 and 0.5 * 0.1:

>>> two_weights(steps=1)[["a", "b", "score_a", "score_b"]].round(3).values.tolist()
[[1.0, 0.1, 0.0, 0.0], [0.85, 0.225, -0.6, 0.05]]
"""

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from qalib import blocks, encoder, pruning
from qalib.checkpoint import Checkpoint
from qalib.pruning import Pruner
from qalib.rehearsal import Rehearsal
from qalib.squad import QuestionSet
from qalib.trainset import TrainingWindows

START, BEST = (1.0, 0.1), (0.4, 0.6)


def two_weights(
    steps: int = 4, rate: float = 0.25, start: tuple[float, float] = START, best: tuple[float, float] = BEST
) -> pd.DataFrame:
    """Gradient descent on 1/2 |w - best|^2 from `start`; a row a step: a, b, score_a, score_b, loss."""
    weights, scores = torch.tensor(start, dtype=torch.double), torch.zeros(2, dtype=torch.double)
    target, rows = torch.tensor(best, dtype=torch.double), []
    for _ in range(steps + 1):
        gradient = weights - target
        rows.append([*weights.tolist(), *scores.tolist(), 0.5 * gradient.square().sum().item()])
        scores = scores - gradient * weights
        weights = weights - rate * gradient
    return pd.DataFrame(rows, columns=["a", "b", "score_a", "score_b", "loss"]).rename_axis("step")


@dataclass(frozen=True)
class Gradients:
    """Of one matrix and one batch: `weight` and `gradient` (dL/dW'), shape `(rows, columns)`, and `of_scores`, what
    autograd gives the scores through the straight-through mask, shape `(rows/height, columns/width)`."""

    weight: Tensor
    gradient: Tensor
    of_scores: Tensor


def gradients(
    checkpoint: Checkpoint, questions: QuestionSet, layer: int = 0, kind: str = "value", batch: int = 8
) -> Gradients:
    """Take the gradient of the answers' cross-entropy over the first `batch` windows, nothing being pruned yet."""
    train = TrainingWindows(questions.questions[:batch], checkpoint.tokenizer)
    inputs = train.batch(list(range(min(batch, len(train)))))
    positions, _ = inputs.pop("positions"), inputs.pop("index")
    pruner = Pruner(copy.deepcopy(checkpoint.model), checkpoint.block)
    pruning.answer_loss(pruner(**inputs), positions).backward()
    mask = pruner.masks()[f"{layer} {kind}"]
    linear = next(m for m in encoder.matrices(pruner.model) if (m.layer, m.kind) == (layer, kind)).linear
    weight = linear.parametrizations.weight.original
    return Gradients(weight.detach(), weight.grad, mask.scores.values.grad)


def blocks_of(checkpoint: Checkpoint, seen: Rehearsal, layer: int = 0) -> pd.DataFrame:
    """The blocks that a rehearsal watched (`layer`'s value matrix): magnitude (root mean square of the weights before
    it), score (after it) and kept, and kept_by_magnitude (would be, were as many kept by magnitude)."""
    weight = encoder.layers(checkpoint.model)[layer].attention.self.value.weight.detach()
    alive = blocks.mask(weight, checkpoint.block)
    magnitude = blocks.split(weight, checkpoint.block).square().mean((-1, -2)).sqrt()[alive]
    table = pd.DataFrame({"magnitude": magnitude.tolist(), "score": seen.scores.iloc[-1].to_numpy()})
    table["kept"] = table.score > seen.cuts.iloc[-1]
    return table.assign(kept_by_magnitude=table.magnitude.rank(ascending=False, method="first") <= table.kept.sum())
