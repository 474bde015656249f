"""Where time goes, and what zeros save."""

import numpy as np
import pandas as pd

from qalib.report.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE
from qalib.teaching.lessons.boards import Board, board, large


@large
def plot_speedups(table: pd.DataFrame) -> Board:
    """Speedups of `profile.compare_zero_patterns` beside their multiply-add ratios."""
    figure, axes = board(1.6 + 0.62 * len(table))
    places = range(len(table))
    colours = [GREY if name.startswith("dense") else BLUE for name in table.candidate]
    axes.barh(places, table.speedup, 0.6, color=colours, edgecolor=INK)
    for place, (value, colour) in enumerate(zip(table.speedup, colours, strict=True)):  # inside: the ratio is outside
        axes.text(value / 2, place, f"{value:.2f}x", ha="center", va="center", color=INK if colour == GREY else "white")
    axes.scatter(
        table.multiply_add_ratio,
        places,
        marker="|",
        s=600,
        color=ORANGE,
        linewidth=4,
        label="multiply-add ratio: times less to multiply",
        zorder=3,
    )
    axes.set(yticks=places, yticklabels=table.candidate, xlabel="speedup over the dense pass without zeros")
    axes.set_xlim(0, 1.2 * max(table.multiply_add_ratio.max(), table.speedup.max()))
    axes.invert_yaxis()
    kept = table.speedup[table.candidate.str.startswith("dense")].iloc[1:]
    best = table.iloc[table.speedup.argmax()]
    axes.set_title(f"Zeros that stay: {kept.min():.2f}x to {kept.max():.2f}x; fastest: {best.candidate.split(':')[0]}, "
                   f"{best.speedup:.2f}x")  # fmt: skip
    figure.legend(loc="outside lower right", frameon=False)
    return figure


@large
def plot_parts(times: pd.DataFrame, timed: pd.DataFrame) -> Board:
    """Where the time of a pass goes: `profile.breakdown` says how it is divided (rows: parts, columns: runtimes),
    `profile.compare_zero_patterns` how long it takes. Clocks around all parts slow a pass, so their sum is longer.
    """
    figure, axes = board(3.4)
    whole = timed.set_index("candidate").median_seconds
    seconds = pd.Series({name: whole[f"{name}: zeros in blocks"] for name in times})
    shares, left = 100 * times / times.sum() * seconds / float(seconds.iloc[0]), np.zeros(times.shape[1])
    shades = [BLUE, ORANGE, GREEN, PURPLE, GREY]
    for (part, row), colour, hatch in zip(shares.iterrows(), shades, ("", "//", "..", "xx", ""), strict=True):
        axes.barh(times.columns, row, 0.6, left=left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left = left + row.to_numpy()
    for place, total in enumerate(left):
        axes.text(total + 1, place, f"{total:.0f} %", va="center")
    axes.set(xlabel=f"time, % of {times.columns[0]} (zeros in blocks)", xlim=(0, 1.12 * left.max()))
    axes.invert_yaxis()
    linear = [f"{100 * times[name].iloc[0] / times[name].sum():.0f} % of {name}" for name in times]
    axes.set_title(f"{times.index[0].capitalize()} take {', '.join(linear)}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    return figure
