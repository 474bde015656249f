"""Lectures: figures of a model as it is: its weights, masks over them, its attention, its costs, its card.

Each is a function from what was measured to a board. A title states what the figure shows, with numbers taken from the
data that it draws; colours are those of `figures`, and nothing is said by colour alone.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor

from qalib import masks
from qalib.boards import Board, board
from qalib.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE

LINES = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (PURPLE, "D", ":"))


def matrix(weight: Tensor, name: str) -> Board:
    """The sizes of a matrix's weights, shape `(rows, columns)`; zeros are white."""
    sizes = weight.abs().numpy()
    left = sizes[sizes > 0]
    figure, axes = board(6.4)
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="white")
    drawn = np.ma.masked_equal(sizes, 0)
    picture = axes.imshow(drawn, cmap=colours, vmin=0, vmax=np.quantile(left, 0.99), interpolation="none")
    axes.set(xlabel="column: an input", ylabel="row: an output")
    axes.set_title(f"{name}: {100 * len(left) / sizes.size:.0f} % of {sizes.size:,} weights are left")
    figure.colorbar(picture, ax=axes, label="size of the weight (white: zero)", extend="max")
    return figure


def magnitudes(weight: Tensor) -> Board:
    """How the weights that are not zero are spread, and how much of the sum of squares the largest hold, beside random
    numbers (normally distributed)."""
    left = weight[weight != 0]
    sizes = left.abs().sort(descending=True).values.double()
    chance = torch.special.ndtri(1 - (torch.arange(len(sizes)).double() + 0.5) / (2 * len(sizes)))
    held, usual = (100 * s.square().cumsum(0) / s.square().sum() for s in (sizes, chance))
    tenth = max(1, len(sizes) // 10)
    figure, panels = board(4.2, 1, 2)
    panels[0].hist(left.numpy(), 80, color=BLUE)
    panels[0].set(xlabel="weight", ylabel="how many")
    panels[1].plot(np.linspace(0, 100, len(sizes)), held, color=BLUE, linewidth=3, label="these weights")
    panels[1].plot(np.linspace(0, 100, len(sizes)), usual, "--", color=INK, linewidth=2, label="random numbers")
    panels[1].plot([10], [held[tenth - 1]], "o", color=ORANGE, markersize=10)
    panels[1].set(xlabel="largest weights, % of all that are left", ylabel="sum of squares, %", ylim=(0, 103))
    panels[1].legend(frameon=False, loc="lower right")
    said = f"{held[tenth - 1]:.0f} % of the squares (random numbers: {usual[tenth - 1]:.0f} %)"
    figure.suptitle(f"The largest tenth holds {said}", fontweight="bold")
    return figure


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


def attention(tokens: Sequence[str], weights: Tensor, layer: int, head: int) -> Board:
    """What every token looks at in one head; `weights` has shape `(layers, heads, tokens, tokens)`."""
    seen = weights[layer, head].numpy()
    figure, axes = board(7)
    picture = axes.imshow(100 * seen, cmap="cividis", vmin=0, vmax=100)
    places = range(len(tokens))
    axes.set(xticks=places, yticks=places, ylabel="this token ...", xlabel="... looks at this one")
    axes.set_xticklabels(tokens, rotation=90, fontsize=11)
    axes.set_yticklabels(tokens, fontsize=11)
    marks = [place for place, token in enumerate(tokens) if token in ("[CLS]", "[SEP]")]
    shares = {
        "[CLS] and [SEP]": seen[:, marks].sum(1).mean(),
        "the word before": seen.trace(-1) / len(tokens),
        "the word after": seen.trace(1) / len(tokens),
        "the word itself": seen.trace() / len(tokens),
    } | {f"'{token}'": seen[:, place].mean() for place, token in enumerate(tokens) if place not in marks}
    most = max(shares, key=shares.get)
    axes.set_title(f"Layer {layer}, head {head}: {100 * shares[most]:.0f} % of the attention is on {most}")
    figure.colorbar(picture, ax=axes, label="attention, % (a row sums to 100)")
    return figure


def shapes(weight: Tensor, share: float, block: int = 32) -> Board:
    """What masks of four shapes keep of a matrix at the same number of weights."""
    forms = masks.SHAPES | {"blocks": (block, block)}
    written = weight.numel() <= 64  # small enough for its weights to be read
    figure, panels = board(3.9, 1, len(forms))
    whole, kept_squares = weight.square().sum().item(), {}
    for axes, (name, shape) in zip(panels, forms.items(), strict=True):
        kept = masks.choose(weight, share, shape)
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


def timing(table: pd.DataFrame) -> Board:
    """Speedups of `costs.side_by_side` with their bounds by multiply-adds."""
    figure, axes = board(1.6 + 0.62 * len(table))
    places = range(len(table))
    colours = [GREY if name.startswith("dense") else BLUE for name in table.candidate]
    axes.barh(places, table.speedup, 0.6, color=colours, edgecolor=INK)
    for place, (value, colour) in enumerate(zip(table.speedup, colours, strict=True)):  # inside: the bound is outside
        axes.text(value / 2, place, f"{value:.2f}x", ha="center", va="center", color=INK if colour == GREY else "white")
    axes.scatter(
        table.bound,
        places,
        marker="|",
        s=600,
        color=ORANGE,
        linewidth=4,
        label="bound: were multiplying by zero free",
        zorder=3,
    )
    axes.set(yticks=places, yticklabels=table.candidate, xlabel="speedup over the dense pass without zeros")
    axes.set_xlim(0, 1.2 * max(table.bound.max(), table.speedup.max()))
    axes.invert_yaxis()
    kept = table.speedup[table.candidate.str.startswith("dense")].iloc[1:]
    best = table.loc[table.speedup.idxmax()]
    axes.set_title(f"Zeros that stay: {kept.min():.2f}x to {kept.max():.2f}x; fastest: {best.candidate.split(':')[0]}, "
                   f"{best.speedup:.2f}x")  # fmt: skip
    figure.legend(loc="outside lower right", frameon=False)
    return figure


def parts(times: pd.DataFrame) -> Board:
    """Where the time of a pass goes (`costs.parts`): a row a part, a column a runtime, in milliseconds."""
    figure, axes = board(3.4)
    shares, left = 100 * times / times.iloc[:, 0].sum(), np.zeros(times.shape[1])
    shades = [BLUE, ORANGE, GREEN, PURPLE, GREY]
    for (part, row), colour, hatch in zip(shares.iterrows(), shades, ("", "//", "..", "xx", ""), strict=True):
        axes.barh(times.columns, row, 0.6, left=left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left = left + row.to_numpy()
    for place, total in enumerate(left):
        axes.text(total + 1, place, f"{total:.0f} %", va="center")
    axes.set(xlabel=f"time, % of {times.columns[0]}", xlim=(0, 1.12 * left.max()))
    axes.invert_yaxis()
    linear = [f"{100 * times[name].iloc[0] / times[name].sum():.0f} % of {name}" for name in times]
    axes.set_title(f"{times.index[0].capitalize()} take {', '.join(linear)}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    return figure


def units(rows: dict[str, tuple[float, str]], title: str, label: str) -> Board:
    """The same thing in several units or over several denominators: value and unit by name; `label` says what it is."""
    figure, axes = board(1.5 + 0.55 * len(rows))
    values = [value for value, _ in rows.values()]
    bars = axes.barh(list(rows), values, 0.6, color=[BLUE, ORANGE, GREEN, PURPLE][: len(rows)], edgecolor=INK)
    axes.bar_label(bars, labels=[f"{value:,.1f} {unit}" for value, unit in rows.values()], padding=5)
    axes.set(xlim=(0, 1.25 * max(values)), xlabel=label)
    axes.invert_yaxis()
    axes.set_title(title)
    return figure
