"""Movement: the two-weight problem that fits on a blackboard, and the same quantities of a real layer.

A score adds up minus gradient times weight, step by step (arXiv 2005.07683, section 3). It rises where descent moves
the weight away from zero and falls where it moves it towards zero, however large the weight is.

Two weights with the loss 1/2 (a - 0.4)^2 + 1/2 (b - 0.6)^2, begun at a = 1, b = 0.1, with learning rate 1/4. The first
gradient is (0.6, -0.5), so that a becomes 1 - 0.15 and b 0.1 + 0.125; the scores are -0.6 * 1 and 0.5 * 0.1:

>>> two_weights(steps=1)[["a", "b", "score_a", "score_b"]].round(3).values.tolist()
[[1.0, 0.1, 0.0, 0.0], [0.85, 0.225, -0.6, 0.05]]
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qalib import sparsity
from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import magnitude
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import MODEL_INPUTS, answer_loss
from qalib.pruning.masked_linear import mask_and_weight
from qalib.pruning.pruner import Pruner
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import BLUE, GREY, INK, ORANGE
from qalib.teaching.lessons import distillation, masks
from qalib.teaching.lessons.boards import LINES, Board, board, large
from qalib.teaching.lessons.minimal import MinimalRun

START, BEST = (1.0, 0.1), (0.4, 0.6)


def two_weights(
    steps: int = 4, rate: float = 0.25, start: tuple[float, float] = START, best: tuple[float, float] = BEST
) -> pd.DataFrame:
    """Gradient descent on 1/2 |w - best|^2 from `start`; one row per step: a, b, score_a, score_b, loss."""
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
    train = SquadDataset(questions.questions[:batch], checkpoint.tokenizer)
    found = train.collate(range(min(batch, len(train))))
    pruner = Pruner(copy.deepcopy(checkpoint.model), checkpoint.block)
    answer_loss(pruner(**{name: found[name] for name in MODEL_INPUTS}), cast(Tensor, found["positions"])).backward()
    mask = pruner.masks()[f"{layer} {kind}"]
    linear = next(m for m in bert.matrices(pruner.model) if (m.layer, m.kind) == (layer, kind)).linear
    _, weight = mask_and_weight(linear)
    return Gradients(weight.detach(), cast(Tensor, weight.grad), cast(Tensor, mask.scores.values.grad))


def block_table(checkpoint: Checkpoint, seen: MinimalRun, layer: int = 0) -> pd.DataFrame:
    """The blocks that a minimal run watched (`layer`'s value matrix): magnitude (root mean square of the weights before
    it), score (after it) and kept, and kept_by_magnitude (would be, were as many kept by magnitude)."""
    weight = bert.layers(checkpoint.model)[layer].attention.self.value.weight.detach()
    alive = blocks.mask(weight, checkpoint.block)
    sizes = blocks.split(weight, checkpoint.block).square().mean((-1, -2)).sqrt()[alive]
    table = pd.DataFrame({"magnitude": sizes.tolist(), "score": seen.scores.iloc[-1].to_numpy()})
    table["kept"] = table.score > seen.thresholds.iloc[-1]
    return table.assign(kept_by_magnitude=table.magnitude.rank(ascending=False, method="first") <= table.kept.sum())


def compare_ways(
    checkpoint: Checkpoint,
    runs: Sequence[MinimalRun],
    questions: QuestionSet,
    test: QuestionSet,
    density: float,
    steps: int,
    batch_size: int,
) -> pd.DataFrame:
    """What minimal runs (with the seeds 0, 1, ...) left, beside blocks cut by magnitude, and by chance, to the density.

    Those learn from the same `questions`, with the same teacher, for as many steps of as many windows, by chance with
    one seed only. One row per way and seed: way, seed, density and f1 (in percent, over the questions of `test`).
    """
    share = density / sparsity.density(checkpoint, (1, 1))
    rows = [("movement", seed, run.pruned) for seed, run in enumerate(runs)]
    for way, removed in (("magnitude", "smallest"), ("chance", "random")):
        cut = magnitude.prune(checkpoint, share, checkpoint.block, removed)
        for seed in range(len(runs) if removed == "smallest" else 1):
            trained = distillation.train(cut, checkpoint, questions, 0.9, steps, batch_size, seed=seed, progress=False)
            rows.append((way, seed, trained[0]))
    measured = [(way, seed, sparsity.density(left), masks.f1(left, test)) for way, seed, left in rows]
    return pd.DataFrame(measured, columns=["way", "seed", "density", "f1"])


@large
def plot_two_weights(path: pd.DataFrame, best: Sequence[float]) -> Board:
    """The weights of `two_weights` on their way, and what magnitude and movement say of them."""
    figure, panels = board(4.6, 1, 3, width_ratios=(1.3, 1, 1))
    end, grid = path.iloc[-1], np.linspace(-0.1, 1.3, 60)
    loss = 0.5 * ((grid[None] - best[0]) ** 2 + (grid[:, None] - best[1]) ** 2)
    panels[0].contour(grid, grid, loss, levels=10, colors="#999999")
    panels[0].plot(path.a, path.b, "o-", color=INK, linewidth=2)
    panels[0].plot(*best, "*", color=ORANGE, markersize=18)
    panels[0].annotate("best", best, xytext=(10, -4), textcoords="offset points")
    panels[0].annotate("start", path.iloc[0][["a", "b"]], xytext=(2, 10), textcoords="offset points")
    panels[0].set(xlabel="weight a", ylabel="weight b", aspect="equal")
    for axes, columns, label in ((panels[1], ("a", "b"), "weight"), (panels[2], ("score_a", "score_b"), "score")):
        for column, (colour, marker, style) in zip(columns, LINES, strict=False):
            axes.plot(path.index, path[column], style, color=colour, marker=marker, linewidth=2.5, label=column[-1])
        axes.set(xlabel="step", ylabel=label)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.legend(frameon=False)
    larger, wanted = "ab"[int(abs(end.a) < abs(end.b))], "ab"[int(end.score_a < end.score_b)]
    steps = f"{len(path) - 1} step" + "s" * (len(path) != 2)
    figure.suptitle(f"After {steps} magnitude keeps {larger}, movement keeps {wanted}", fontweight="bold")
    return figure


@large
def plot_straight_through(threshold: float = 0.0) -> Board:
    """The mask as a function of the score, its real slope, and the slope that training takes instead."""
    figure, panels = board(3.6, 1, 2)
    ends, slope = [threshold - 1, threshold + 1], "straight-through: taken for 1"
    panels[0].plot([ends[0], threshold, threshold, ends[1]], [0, 0, 1, 1], color=BLUE, linewidth=3)
    panels[0].set(title="forward: keep or not", ylabel="mask")
    panels[1].plot(ends, [0, 0], color=GREY, linewidth=4, label="true slope: nothing to follow")
    panels[1].plot(ends, [1, 1], "--", color=ORANGE, linewidth=3, label=slope)
    panels[1].set(title="backward: the slope", ylabel="d mask / d score", ylim=(-0.2, 1.7))
    panels[1].legend(frameon=False, loc="upper center")
    for axes in panels:
        axes.set(xlabel="score - threshold", yticks=(0, 1))
    figure.suptitle("A step has no slope to learn along: training takes it for 1", fontweight="bold")
    return figure


@large
def plot_scores(seen: MinimalRun, table: pd.DataFrame) -> Board:
    """The scores of one matrix's blocks while it is pruned, and what became of them beside their magnitudes
    (`block_table`)."""
    figure, panels = board(4.8, 1, 2)
    for column, kept in zip(seen.scores, table.kept, strict=True):
        colour, order = (BLUE, 2) if kept else ("#AAAAAA", 1)
        panels[0].plot(seen.scores.index, seen.scores[column], color=colour, linewidth=1.5, zorder=order)
    thresholds = seen.thresholds.replace(-np.inf, np.nan)
    panels[0].plot(thresholds.index, thresholds, "--", color=ORANGE, linewidth=3, label="threshold", zorder=3)
    low, high = seen.scores.to_numpy().min(), seen.scores.to_numpy().max()
    room = 0.08 * (high - low)
    panels[0].set(xlabel="step", ylabel="score of a block", ylim=(low - room, high + room))
    for kept, colour, marker, label in ((True, BLUE, "o", "kept"), (False, INK, "x", "pruned")):
        part = table[table.kept == kept]
        panels[1].scatter(part.magnitude, part.score, s=60, color=colour, marker=marker, label=label, zorder=3)
    panels[1].axhline(seen.thresholds.iloc[-1], linestyle="--", color=ORANGE, linewidth=3)
    panels[1].set(xlabel="root mean square of its weights before", ylabel="score after")
    panels[1].locator_params(axis="x", nbins=5)
    for axes in panels:
        axes.legend(frameon=False)
    kept, same = int(table.kept.sum()), int((table.kept & table.kept_by_magnitude).sum())
    said = f"of these magnitude keeps {same}, chance {kept**2 / len(table):.0f}"
    figure.suptitle(f"Movement keeps {kept} of {len(table)} blocks; {said}", fontweight="bold")
    return figure


@large
def plot_ways(table: pd.DataFrame) -> Board:
    """F1 of what was pruned in several ways (`compare_ways`), a dot a seed and a line at the mean."""
    ways = list(dict.fromkeys(table.way))
    figure, axes = board(1.8 + 0.6 * len(ways))
    for place, (way, colour) in enumerate(zip(ways, (BLUE, ORANGE, INK), strict=False)):
        found = table.f1[table.way == way]
        axes.scatter(found, [place] * len(found), s=90, color=colour, alpha=0.7, zorder=3)
        axes.plot([found.mean()] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=3)
    axes.set(yticks=range(len(ways)), yticklabels=ways, xlabel="F1 on questions with other contexts, %")
    axes.set(xlim=(0, max(50, 1.1 * table.f1.max())), ylim=(len(ways) - 0.5, -0.5))
    means = table.groupby("way", sort=False).f1.mean()
    axes.set_title(f"F1 at {table.density.max():.2f} density: " + ", ".join(f"{m:.0f} {w}" for w, m in means.items()),
                   fontsize=13)  # fmt: skip
    return figure
