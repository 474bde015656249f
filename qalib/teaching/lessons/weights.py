"""The weights of a matrix: how large they are, and how they are spread."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qalib.report.plots.style import BLUE, INK, ORANGE
from qalib.teaching.lessons.boards import Board, board, large

WIDE = 5  # standard deviations: what is farther out is an outlier


def outliers(matrices: Mapping[str, Tensor]) -> pd.DataFrame:
    """One row per matrix: weights (not zero), outliers (farther than WIDE standard deviations from 0), the largest in
    standard deviations, and the outliers' share of the sum of squares, in percent."""
    rows = []
    for name, weight in matrices.items():
        left = weight[weight != 0].double()
        far = left.abs() > WIDE * left.std()
        share = 100 * (left[far].square().sum() / left.square().sum()).item()
        rows.append((name, len(left), int(far.sum()), (left.abs().max() / left.std()).item(), share))
    return pd.DataFrame(rows, columns=["matrix", "weights", "outliers", "largest_in_sigmas", "percent_of_squares"])


@large
def plot_matrix(weight: Tensor, name: str) -> Board:
    """The sizes of a matrix's weights, shape `(rows, columns)`; zeros are white."""
    sizes = weight.abs().numpy()
    left = sizes[sizes > 0]
    figure, axes = board(6.4)
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="white")
    drawn = np.ma.masked_equal(sizes, 0)
    picture = axes.imshow(drawn, cmap=colours, vmin=0, vmax=np.quantile(left, 0.99), interpolation="none")
    axes.set(xlabel="column: an input", ylabel="row: an output")
    title = f"{name}: {100 * len(left) / sizes.size:.0f} % of {sizes.size:,} weights are left"
    figure.suptitle(title, fontweight="bold")  # a matrix may be narrow
    figure.colorbar(picture, ax=axes, label="size of the weight (white: zero)", extend="max")
    return figure


@large
def plot_magnitudes(weight: Tensor) -> Board:
    """How the weights that are not zero are spread, and how much of the sum of squares the largest hold, beside random
    numbers (normally distributed)."""
    left = weight[weight != 0]
    sizes = left.abs().sort(descending=True).values.double()
    chance = torch.special.ndtri(1 - (torch.arange(len(sizes)).double() + 0.5) / (2 * len(sizes)))
    held, usual = (100 * s.square().cumsum(0) / s.square().sum() for s in (sizes, chance))
    tenth = max(1, len(sizes) // 10)
    figure, panels = board(4.2, 1, 2)
    sigma = left.std().item()
    outside = left.abs() > WIDE * sigma
    panels[0].hist(left[~outside].numpy(), 80, color=BLUE)
    far = f";\n{int(outside.sum())} lie outside, up to {sizes[0].item() / sigma:.0f} sigma" if outside.any() else ""
    panels[0].set(xlabel=f"weight, within {WIDE} sigma{far}", ylabel="how many")
    panels[1].plot(np.linspace(0, 100, len(sizes)), held, color=BLUE, linewidth=3, label="these weights")
    panels[1].plot(np.linspace(0, 100, len(sizes)), usual, "--", color=INK, linewidth=2, label="random numbers")
    panels[1].plot([10], [held[tenth - 1]], "o", color=ORANGE, markersize=10)
    panels[1].set(xlabel="largest weights, % of all that are left", ylabel="sum of squares, %", ylim=(0, 103))
    panels[1].legend(frameon=False, loc="lower right")
    said = f"{held[tenth - 1]:.0f} % of the squares (random numbers: {usual[tenth - 1]:.0f} %)"
    figure.suptitle(f"The largest tenth holds {said}", fontweight="bold")
    return figure
