"""Masks of several shapes and rankings, and what the model loses by each."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from torch import Tensor
from tqdm import tqdm

from qalib import runtimes, sparsity
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import magnitude
from qalib.pruning.magnitude import SHAPES, Shape, prune
from qalib.qa import evaluation
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import BLUE, GREY, INK
from qalib.teaching.common import LINES, Board, board


def f1(checkpoint: Checkpoint, questions: QuestionSet) -> float:
    """F1 in percent over the questions, with the removable heads and neurons cut out to save time."""
    model = runtimes.build("compact", checkpoint)
    return evaluation.evaluate(model, checkpoint.tokenizer, questions, progress=False).score.f1


def compare(
    checkpoint: Checkpoint,
    questions: QuestionSet,
    shares: Sequence[float],
    shapes: Mapping[str, Shape] = SHAPES,
    cuts: Sequence[str] = ("smallest",),
    progress: bool = True,
) -> pd.DataFrame:
    """Prune copies of the checkpoint, not trained afterwards, and ask them the questions.

    One row a shape, cut and share of the weights that are left: shape, cut, share, density (not zero / all weights),
    squares (share of the sum of squares that is kept, 0 to 1) and f1 in percent.
    """
    plan = [(shape, cut, share) for shape in shapes for cut in cuts for share in sorted(shares, reverse=True)]
    whole, rows = _squares(checkpoint), []
    for shape, cut, share in tqdm(plan, unit="model", desc="pruning and asking", disable=not progress):
        pruned = prune(checkpoint, share, shapes[shape], cut)
        kept = _squares(pruned) / whole
        rows.append((shape, cut, share, sparsity.density(pruned, (1, 1)), kept, f1(pruned, questions)))
    return pd.DataFrame(rows, columns=["shape", "cut", "share", "density", "squares", "f1"])


def _squares(checkpoint: Checkpoint) -> float:
    return sum(matrix.linear.weight.detach().square().sum().item() for matrix in bert.matrices(checkpoint.model))


def lost(table: pd.DataFrame, by: str, start: float) -> Board:
    """F1 over density of pruned copies (`masks.compare`), a line for each `shape` or `cut` (`by`), from F1 `start`."""
    figure, axes = board(4.6)
    whole = float((table.density / table.share).mean())
    for (name, rows), (colour, marker, style) in zip(table.groupby(by, sort=False), LINES, strict=False):
        x, y = [100 * whole, *(100 * rows.density)], [start, *rows.f1]
        axes.plot(x, y, style, color=colour, marker=marker, linewidth=2.5, markersize=8, label=name)
    axes.set(ylabel="F1, %", ylim=(0, 103))
    axes.set_xlabel("density: weights not zero / all encoder weights, %  (more is cut \N{RIGHTWARDS ARROW})")
    axes.invert_xaxis()
    middle = sorted(table.share.unique())[len(table.share.unique()) // 2]
    at = table[table.share == middle]
    said = ", ".join(f"{name} {value:.0f}" for name, value in zip(at[by], at.f1, strict=True))
    axes.set_title(f"F1 at {100 * at.density.mean():.0f} % density: {said}")
    axes.legend(frameon=False, title={"cut": "cut first:", "shape": "cut in:"}[by])
    return figure


def shapes(weight: Tensor, share: float, block: int = 32) -> Board:
    """What masks of four shapes keep of a matrix at the same number of weights."""
    forms = magnitude.SHAPES | {"blocks": (block, block)}
    written = weight.numel() <= 64  # small enough for its weights to be read
    figure, panels = board(3.9, 1, len(forms))
    whole, kept_squares = weight.square().sum().item(), {}
    for axes, (name, shape) in zip(panels, forms.items(), strict=True):
        kept = magnitude.choose(weight, share, shape)
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
    figure.suptitle(f"{100 * share:.0f} % of the weights: {said}", fontweight="bold")
    return figure
