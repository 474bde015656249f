"""Sensitivity: what the model loses when one matrix is cut, and budgets of blocks that follow from it.

Every matrix is cut by itself, a little and then more, and the answers' divergence is what that costs. If the costs of
matrices that are cut together simply added up, the best budget would cut where the next block is cheapest, until enough
is gone (`budget`). They do not quite: what that is worth is measured, on other questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm, Normalize
from torch import Tensor
from tqdm.auto import tqdm

from qalib import sparsity
from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.pruning.magnitude import magnitude_mask
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import INK
from qalib.teaching.lessons import algorithms, heads
from qalib.teaching.lessons.boards import Board, board, large
from qalib.teaching.lessons.curves import plot_curves
from qalib.utils.errors import InputError

WAYS = ("the same for all", "one threshold", "by sensitivity")


def shares_pruned(checkpoint: Checkpoint, shares: Mapping[int, float]) -> Checkpoint:
    """A copy in which matrices, by their number in `bert.matrices`, keep a share of their blocks, by magnitude."""
    pruned = checkpoint.copy()
    found = bert.matrices(pruned.model)
    for number, share in shares.items():
        weight = found[number].linear.weight.data
        weight.mul_(magnitude_mask(weight, share, checkpoint.block))
    return pruned


def apart(questions: QuestionSet, measured: int, asked: int) -> tuple[QuestionSet, QuestionSet]:
    """So many questions to measure with, from all over the data, and so many others to ask.

    Raises InputError if there are no others."""
    first = heads.spread(questions, measured)
    used = {q.id for q in first.questions}
    rest = tuple(q for q in questions.questions if q.id not in used)
    if not rest:
        raise InputError(f"{measured} questions to measure with leave none of {len(questions)} to ask")
    return first, heads.spread(replace(questions, questions=rest), asked)


def measure(
    checkpoint: Checkpoint, questions: QuestionSet, levels: Sequence[float], progress: bool = True
) -> pd.DataFrame:
    """Cut each matrix by itself and ask the questions.

    A row a matrix and level: matrix (its number in `bert.matrices`), layer, kind, blocks (that it has), level (the
    share of them that it keeps, from large to small), divergence (`heads.divergence` from the whole model, in nats)."""
    whole, rows = heads.ask(checkpoint, questions)[0], []
    found, levels = bert.matrices(checkpoint.model), sorted(levels, reverse=True)
    for number, matrix in enumerate(tqdm(found, unit="matrix", disable=not progress)):
        alive = int(blocks.mask(matrix.linear.weight.detach(), checkpoint.block).sum())
        for level in levels:
            cut = shares_pruned(checkpoint, {number: level})
            moved = heads.divergence(heads.ask(cut, questions)[0], whole) if alive else 0.0
            rows.append((number, matrix.layer, matrix.kind, alive, level, moved))
    return pd.DataFrame(rows, columns=["matrix", "layer", "kind", "blocks", "level", "divergence"])


def costs(table: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """What `measure` found, for a budget: costs in nats, shape `(matrices, levels)`, and the blocks that each level
    cuts, of the same shape. A cost is never below that of cutting less: what is lower is chance."""
    wide = table.pivot(index="matrix", columns="level", values="divergence").sort_index(axis=1, ascending=False)
    alive = table.groupby("matrix").blocks.first()
    cut = [[int(n) - int(level * n) for level in wide.columns] for n in alive]
    return torch.tensor(np.maximum.accumulate(wide.to_numpy(), axis=1)), torch.tensor(cut)


def one_threshold(checkpoint: Checkpoint, keep_fraction: float) -> dict[int, float]:
    """The shares that matrices keep where all blocks of the model are ranked together by magnitude."""
    sizes = {}
    for number, matrix in enumerate(bert.matrices(checkpoint.model)):
        found = blocks.split(matrix.linear.weight.detach(), checkpoint.block).square().mean((-1, -2)).sqrt()
        sizes[number] = found[found > 0]
    threshold = torch.cat([*sizes.values()]).quantile(1 - keep_fraction)
    return {number: (found > threshold).double().mean().item() for number, found in sizes.items() if len(found)}


def by_sensitivity(table: pd.DataFrame, keep_fraction: float) -> dict[int, float]:
    """The shares that matrices keep where the cheapest steps of `measure` are taken first (`algorithms.budget`)."""
    prices, cut = costs(table)
    wanted = int((1 - keep_fraction) * table.groupby("matrix").blocks.first().sum())
    levels = [1.0, *sorted(table.level.unique(), reverse=True)]
    steps = algorithms.budget(prices, cut, wanted)
    return {number: levels[int(step)] for number, step in enumerate(steps)}


def compare(
    checkpoint: Checkpoint, table: pd.DataFrame, questions: QuestionSet, fractions: Sequence[float], progress=True
) -> pd.DataFrame:
    """The three WAYS to share out a budget, at each fraction of blocks kept; nothing is trained.

    A row a way and fraction: way, keep_fraction, density, divergence (nats), f1 (percent), and the change of F1's 95 %
    interval, low and high (`heads.bootstrap`). The first two ways keep as many blocks as the third.
    """
    whole, start = heads.ask(checkpoint, questions)
    alive, rows = table.groupby("matrix").blocks.first(), []
    for fraction in tqdm(sorted(fractions, reverse=True), unit="budget", disable=not progress):
        chosen = by_sensitivity(table, fraction)
        kept = sum(int(share * alive[number]) for number, share in chosen.items()) / alive.sum()
        plans = ({number: kept for number in alive.index}, one_threshold(checkpoint, kept), chosen)
        for way, plan in zip(WAYS, plans, strict=True):
            cut = shares_pruned(checkpoint, plan)
            logits, f1 = heads.ask(cut, questions)
            low, high = heads.bootstrap(f1 - start)
            rows.append(
                (way, fraction, sparsity.density(cut, (1, 1)), heads.divergence(logits, whole), f1.mean(), low, high)
            )
    return pd.DataFrame(rows, columns=["way", "keep_fraction", "density", "divergence", "f1", "low", "high"])


def added_up(checkpoint: Checkpoint, table: pd.DataFrame, questions: QuestionSet, keep_fraction: float) -> pd.DataFrame:
    """The divergence of the plan by sensitivity, in nats: the sum of its steps, measured one by one, and together."""
    chosen = by_sensitivity(table, keep_fraction)
    by_itself = table.set_index(["matrix", "level"]).divergence
    parts = sum(by_itself[number, share] for number, share in chosen.items() if share < 1)
    logits = [heads.ask(made, questions)[0] for made in (shares_pruned(checkpoint, chosen), checkpoint)]
    return pd.DataFrame({"nats": [parts, heads.divergence(*logits)]}, index=["one by one, added up", "together"])


@large
def plot_sensitivity(table: pd.DataFrame, keep_fraction: float) -> Board:
    """What each matrix costs when it is cut to the lowest level (`measure`), and the share of its blocks that it keeps
    in a budget of `keep_fraction` of all blocks."""
    level = table.level.min()
    rows = table[table.level == level].reset_index(drop=True)
    rows["kept"] = 100 * rows.matrix.map(by_sensitivity(table, keep_fraction))
    figure, panels = board(2.2 + 0.5 * rows.layer.nunique(), 1, 2, sharey=True)
    least = max(rows.divergence[rows.divergence > 0].min(), 1e-6)
    scales = (LogNorm(least, max(rows.divergence.max(), 1.1 * least)), Normalize(100 * level, 100))
    for axes, column, norm, shown in zip(panels, ("divergence", "kept"), scales, ("{:.2f}", "{:.0f}"), strict=True):
        grid = rows.pivot(index="layer", columns="kind", values=column)[[*bert.LINEAR_LAYERS]]
        axes.imshow(grid.clip(lower=norm.vmin), cmap="cividis", norm=norm, aspect="auto")
        for (layer, kind), value in np.ndenumerate(grid.to_numpy()):
            colour = "white" if norm(max(value, cast(float, norm.vmin))) < 0.6 else INK
            text = shown.format(value).replace("0.", ".")
            axes.text(kind, layer, text, ha="center", va="center", color=colour, fontsize=11)
        axes.set(xticks=range(grid.shape[1]), yticks=range(len(grid)), ylabel="layer")
        axes.set_xticklabels(grid.columns, rotation=35, ha="right", fontsize=11)
    panels[0].set_title(f"cost of {100 * (1 - level):.0f} % of its blocks, nats", fontsize=13)
    panels[1].set_title(f"share kept, % (of all {100 * keep_fraction:.0f} %)", fontsize=13)
    panels[1].set_ylabel("")
    dear, cheap = rows.loc[rows.divergence.idxmax()], rows.loc[rows.divergence.idxmin()]
    ratio = dear.divergence / max(cheap.divergence, 1e-6)
    dearest, cheapest = (f"{row.kind}, layer {row.layer}" for row in (dear, cheap))
    figure.suptitle(f"{dearest[0].upper()}{dearest[1:]}, costs {ratio:,.0f} times as much as {cheapest}",
                    fontweight="bold")  # fmt: skip
    return figure


def plot_budgets(table: pd.DataFrame, start: float) -> Board:
    """Divergence and F1 over density (`compare`), a line for each of the WAYS."""
    fractions = sorted(table.keep_fraction.unique())
    middle = table[table.keep_fraction == fractions[len(fractions) // 2]]
    said = ", ".join(f"{row.f1:.0f} {row.way}" for row in middle.itertuples())
    shown = table.assign(density=100 * table.density)
    title = f"F1 at {100 * middle.density.mean():.0f} % density: {said}"
    return plot_curves(shown, "way", "density", start, "density, %  (more is cut \N{RIGHTWARDS ARROW})", title, True)
