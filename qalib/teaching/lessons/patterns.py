"""Patterns and scores: half of the weights goes, in groups of several sizes, ranked in three ways.

A pattern keeps half of every group of so many weights side by side in a row: 2 of 4 is what NVIDIA's sparse tensor
cores can multiply (Mishra et al. 2021, arXiv 2104.08378). *Magnitude* ranks by the weight; *Wanda* by the weight times
the norm of its input (Sun et al. 2023, arXiv 2306.11695); and *OBS*, the optimal brain surgeon (Hassibi and Stork
1992), by what the layer's output loses after the other weights have made up for it as well as they can. Here it goes
through a row from left to right, as SparseGPT does (Frantar and Alistarh 2023, arXiv 2301.00774).

>>> half_mask(torch.tensor([[4.0, 1, 2, 3, 0, 0, 1, 0]]), 4)
tensor([[ True, False, False,  True, False, False,  True, False]])
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from qalib import sparsity
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import BLUE, GREEN, GREY, INK, ORANGE
from qalib.teaching.lessons import heads, inputs
from qalib.teaching.lessons.boards import Board, board, large

WAYS = ("magnitude", "Wanda", "OBS")
PATTERNS = {"half of a row": None, "4 of 8": 8, "2 of 4": 4, "1 of 2": 2}  # weights in a group; None: a whole row
DAMPING = 0.01  # of the mean of the diagonal, added to it
STEP = 64  # columns after which what is left of a row is brought up to date


def half_mask(scores: Tensor, group: int | None) -> Tensor:
    """A mask (bool, shape `(rows, columns)`) that keeps the half with the largest scores of every group of columns.

    `group` is None for a whole row. Scores of 0 belong to weights that are zero already: a group, or a row, keeps half
    of the others, rounded up, and at most half of its places where it is a group.
    """
    rows, columns = scores.shape
    grouped = scores.reshape(rows, -1, group or columns)
    alive = (grouped > 0).sum(-1, keepdim=True)
    many = (alive + 1) // 2 if group is None else torch.full_like(alive, group // 2)
    ranks = grouped.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return ((ranks < many) & (grouped > 0)).reshape(rows, columns)


def input_products(checkpoint: Checkpoint, questions: QuestionSet) -> list[Tensor]:
    """The mean of x x^T over the inputs x of each encoder matrix while the questions are asked, shape `(in, in)`."""
    linears = [matrix.linear for matrix in bert.matrices(checkpoint.model)]
    sums = [torch.zeros(linear.in_features, linear.in_features) for linear in linears]
    tokens = [0] * len(linears)

    def note(number: int, given: Tensor) -> None:
        sums[number] += given.T @ given
        tokens[number] += len(given)

    inputs.watch(checkpoint, questions, linears, note)
    return [total / count for total, count in zip(sums, tokens, strict=True)]


def pruned(weight: Tensor, products: Tensor, group: int | None, way: str) -> Tensor:
    """The weight, shape `(rows, columns)`, without half of what it has, by one of the WAYS; `products` has the mean of
    x x^T. Only OBS changes the weights that stay."""
    if way == "magnitude":
        return weight * half_mask(weight.abs(), group)
    if way == "Wanda":
        return weight * half_mask(weight.abs() * products.diagonal().sqrt().clamp_min(1e-9), group)
    return _surgery(weight, products, group)


def _surgery(weight: Tensor, products: Tensor, group: int | None) -> Tensor:
    """SparseGPT: column by column from the left, what is cut is made up for by the columns to the right."""
    products = products.double() + DAMPING * products.diagonal().mean() * torch.eye(len(products), dtype=torch.double)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(products)), upper=True).to(weight.dtype)
    left, alive, scale = weight.clone(), weight != 0, upper.diagonal()
    mask = half_mask((weight / scale).abs() * alive, None) if group is None else torch.zeros_like(alive)
    for first in range(0, weight.shape[1], STEP):
        end = min(first + STEP, weight.shape[1])
        lost = torch.zeros(len(weight), end - first)
        for j in range(first, end):
            if group and j % group == 0:
                here = slice(j, j + group)
                mask[:, here] = half_mask((left[:, here] / scale[here]).abs() * alive[:, here], group)
            error = torch.where(mask[:, j], 0, left[:, j]) / scale[j]
            left[:, j:end] -= error[:, None] * upper[j, j:end]
            lost[:, j - first] = error
        left[:, end:] -= lost @ upper[first:end, end:]
    return left * mask


def halved(checkpoint: Checkpoint, products: Sequence[Tensor], group: int | None, way: str) -> Checkpoint:
    """A copy in which every encoder matrix is `pruned`."""
    made = checkpoint.copy()
    for matrix, product in zip(bert.matrices(made.model), products, strict=True):
        matrix.linear.weight.data = pruned(matrix.linear.weight.data, product, group, way)
    return made


def output_errors(checkpoint: Checkpoint, products: Sequence[Tensor], group: int | None) -> pd.DataFrame:
    """How far the outputs of each matrix move on the inputs of `input_products`, for each of the WAYS.

    A row a matrix: matrix, and a column a way: the root mean square of the change, in % of that of the outputs."""
    rows = []
    for matrix, product in zip(bert.matrices(checkpoint.model), products, strict=True):
        weight = matrix.linear.weight.detach()
        row: dict[str, str | float] = {"matrix": f"layer {matrix.layer}, {matrix.kind}"}
        whole = ((weight @ product) * weight).sum()
        for way in WAYS:
            change = pruned(weight, product, group, way) - weight
            row[way] = 100 * (((change @ product) * change).sum() / whole).sqrt().item()
        rows.append(row)
    return pd.DataFrame(rows)


def compare(
    checkpoint: Checkpoint,
    products: Sequence[Tensor],
    questions: QuestionSet,
    groups: Mapping[str, int | None] = PATTERNS,
    progress: bool = True,
) -> pd.DataFrame:
    """Halve the weights in each pattern and way, without training, and ask the questions.

    A row a pattern and way: pattern, way, density, divergence (nats), f1 (percent)."""
    whole, rows = heads.ask(checkpoint, questions)[0], []
    plan = [(pattern, way) for pattern in groups for way in WAYS]
    for pattern, way in tqdm(plan, unit="model", desc="halving and asking", disable=not progress):
        made = halved(checkpoint, products, groups[pattern], way)
        logits, f1 = heads.ask(made, questions)
        density = sparsity.density(made, (1, 1))
        rows.append((pattern, way, density, heads.divergence(logits, whole), f1.mean()))
    return pd.DataFrame(rows, columns=["pattern", "way", "density", "divergence", "f1"])


@large
def plot_patterns(table: pd.DataFrame, start: float) -> Board:
    """F1 in each pattern (`compare`), a bar for each way to rank; the line is the model as it is."""
    figure, axes = board(4.6)
    patterns, ways = [*dict.fromkeys(table.pattern)], [*dict.fromkeys(table.way)]
    wide = table.pivot(index="pattern", columns="way", values="f1").loc[patterns, ways]
    for place, (way, colour, hatch) in enumerate(zip(ways, (GREY, BLUE, ORANGE), ("", "//", ""), strict=True)):
        across = [n + 0.27 * (place - 1) for n in range(len(patterns))]
        bars = axes.bar(across, wide[way], 0.25, color=colour, hatch=hatch, edgecolor=INK, label=way)
        axes.bar_label(bars, fmt="%.0f", fontsize=11)
    axes.axhline(start, color=GREEN, linestyle=":", linewidth=2.5, label="as it is")
    axes.set(xticks=range(len(patterns)), xticklabels=patterns, xlabel="what stays of the weights", ylabel="F1, %")
    axes.set_ylim(0, 1.35 * max(start, wide.to_numpy().max()))
    axes.legend(frameon=False, ncols=4, loc="upper left")
    shown = "2 of 4" if "2 of 4" in patterns else patterns[0]
    said = ", ".join(f"{way} {wide.loc[shown, way]:.0f}" for way in ways)
    axes.set_title(f"F1 with {shown}: {said}")
    return figure


@large
def plot_output_errors(table: pd.DataFrame) -> Board:
    """How far each matrix's outputs move (`output_errors`), a line a way, matrices in the order of the model."""
    figure, axes = board(3.8)
    for way, colour, style in zip(WAYS, (INK, BLUE, ORANGE), (":", "--", "-"), strict=True):
        axes.plot(
            range(len(table)), table[way], style, color=colour, linewidth=2.5, marker="o", markersize=4, label=way
        )
    axes.set(xlabel="matrix, in the order of the model", ylabel="change of its outputs, %", ylim=(0, None))
    axes.legend(frameon=False, ncols=3)
    better = [100 * (1 - (table[way] / table.magnitude).mean()) for way in WAYS[1:]]
    axes.set_title(f"Outputs change less than by magnitude: Wanda by {better[0]:.0f} %, OBS by {better[1]:.0f} %")
    return figure
