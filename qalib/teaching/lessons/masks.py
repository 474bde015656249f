"""Masks of several granularities and rankings, and what the model loses by each."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from torch import Tensor
from tqdm.auto import tqdm

from qalib import runtimes, sparsity
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.pruning.magnitude import GRANULARITIES, Granularity, magnitude_mask, prune
from qalib.qa import evaluation
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import BLUE, GREY, INK
from qalib.teaching.lessons.boards import LINES, Board, board, large


def f1(checkpoint: Checkpoint, questions: QuestionSet) -> float:
    """F1 in percent over the questions."""
    model = runtimes.build(runtimes.best("cpu"), checkpoint)
    return cast(float, evaluation.evaluate(model, checkpoint.tokenizer, questions, progress=False).score.f1)


def compare(
    checkpoint: Checkpoint,
    questions: QuestionSet,
    keep_fractions: Sequence[float],
    granularities: Mapping[str, Granularity] = GRANULARITIES,
    removed: Sequence[str] = ("smallest",),
    progress: bool = True,
) -> pd.DataFrame:
    """Prune copies of the checkpoint, not trained afterwards, and ask them the questions.

    One row per granularity, what is removed first, and fraction kept of the weights that are not zero: granularity,
    removed, keep_fraction, density (not zero / all weights), squares (share of the sum of squares that is kept, 0 to 1)
    and f1 in percent.
    """
    plan = [*product(granularities, removed, sorted(keep_fractions, reverse=True))]
    whole, rows = _squares(checkpoint), []
    for name, first, fraction in tqdm(plan, unit="model", desc="pruning and asking", disable=not progress):
        pruned = prune(checkpoint, fraction, granularities[name], first)
        kept = _squares(pruned) / whole
        rows.append((name, first, fraction, sparsity.density(pruned, (1, 1)), kept, f1(pruned, questions)))
    return pd.DataFrame(rows, columns=["granularity", "removed", "keep_fraction", "density", "squares", "f1"])


def _squares(checkpoint: Checkpoint) -> float:
    return sum(matrix.linear.weight.detach().square().sum().item() for matrix in bert.matrices(checkpoint.model))


@large
def plot_f1(table: pd.DataFrame, by: str, start: float) -> Board:
    """F1 over density of pruned copies (`compare`), from F1 `start` on: a line for each value of a column, `by`."""
    figure, axes = board(4.6)
    whole = float((table.density / table.keep_fraction).mean())
    for (name, rows), (colour, marker, style) in zip(table.groupby(by, sort=False), LINES, strict=False):
        x, y = [100 * whole, *(100 * rows.density)], [start, *rows.f1]
        axes.plot(x, y, style, color=colour, marker=marker, linewidth=2.5, markersize=8, label=name)
    axes.set(ylabel="F1, %", ylim=(0, 103))
    axes.set_xlabel("density: weights not zero / all encoder weights, %  (more is cut \N{RIGHTWARDS ARROW})")
    axes.invert_xaxis()
    fractions = sorted(table.keep_fraction.unique())
    at = table[table.keep_fraction == fractions[len(fractions) // 2]]
    said = ", ".join(f"{name} {value:.0f}" for name, value in zip(at[by], at.f1, strict=True))
    axes.set_title(f"F1 at {100 * at.density.mean():.0f} % density: {said}")
    axes.legend(frameon=False, title={"removed": "cut first:", "granularity": "cut in:"}[by])
    return figure


@large
def plot_squares(table: pd.DataFrame, keep_fraction: float) -> Board:
    """F1 over the share of the sum of squares that is kept (`compare`): does more of one mean more of the other?"""
    figure, axes = board(4.6)
    for (name, rows), (colour, marker, style) in zip(table.groupby("granularity", sort=False), LINES, strict=False):
        axes.plot(100 * rows.squares, rows.f1, style, color=colour, marker=marker, markersize=9, label=name)
    axes.set(xlabel="sum of squares that is kept, %", ylabel="F1, %", ylim=(0, 103))
    axes.legend(frameon=False)
    tiles = table[np.isclose(table.keep_fraction, keep_fraction) & (table.granularity != "single weights")]
    most, best = tiles.iloc[tiles.squares.argmax()], tiles.iloc[tiles.f1.argmax()]
    said = [f"{row.granularity} {what} ({100 * row.squares:.1f} % of the squares, F1 {row.f1:.0f})"
            for row, what in ((most, "hold most"), (best, "answer best"))]  # fmt: skip
    axes.set_title(f"At {100 * keep_fraction:.0f} % of the weights {said[0]},\n{said[1]}")
    return figure


@large
def plot_masks(weight: Tensor, keep_fraction: float, block: int = 32) -> Board:
    """What masks of four granularities keep of a matrix at the same number of weights."""
    granularities = GRANULARITIES | {"blocks": (block, block)}
    written = weight.numel() <= 64  # small enough for its weights to be read
    figure, panels = board(3.9, 1, len(granularities))
    whole, kept_squares = weight.square().sum().item(), {}
    for axes, (name, granularity) in zip(panels, granularities.items(), strict=True):
        kept = magnitude_mask(weight, keep_fraction, granularity)
        kept_squares[name] = 100 * (weight * kept).square().sum().item() / whole
        state = (weight != 0).int() + kept.int()
        axes.imshow(state.numpy(), cmap=ListedColormap(["white", GREY, BLUE]), vmin=0, vmax=2, interpolation="none")
        axes.set(xticks=[], yticks=[], xlabel=f"{kept_squares[name]:.0f} % of the\nsum of squares")
        axes.set_title(name, loc="center", fontweight="normal")
        axes.spines[:].set(visible=True, color=INK)
        for (row, column), value in np.ndenumerate(weight.numpy()) if written else ():
            colour = "white" if kept[row, column] else INK
            axes.text(column, row, f"{value:g}", ha="center", va="center", color=colour)
    coarse, fine = kept_squares["blocks"], kept_squares["single weights"]
    said = f"blocks hold {coarse:.0f} % of the squares, single ones {fine:.0f} %"
    figure.suptitle(f"{100 * keep_fraction:.0f} % of the weights: {said}", fontweight="bold")
    return figure
