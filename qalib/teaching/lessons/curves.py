"""Two curves that several lessons draw: how far the answers move, and what that does to F1."""

import pandas as pd
from matplotlib.ticker import NullFormatter

from qalib.report.plots.style import INK
from qalib.teaching.lessons.boards import LINES, Board, board, large


@large
def plot_curves(
    table: pd.DataFrame, by: str, x: str, start: float, label: str, title: str, descending: bool = False
) -> Board:
    """Divergence (left, logarithmic) and F1 (right) over the column `x`, a line for each value of the column `by`.

    `table` has the columns divergence (nats) and f1 (percent); `start` is the F1 of the whole model. With `descending`
    the axis runs from large to small.
    """
    figure, panels = board(4.6, 1, 2)
    for (name, rows), (colour, marker, style) in zip(table.groupby(by, sort=False), LINES, strict=False):
        for axes, column in zip(panels, ("divergence", "f1"), strict=True):
            axes.plot(
                rows[x], rows[column], style, color=colour, marker=marker, linewidth=2.5, markersize=8, label=name
            )
    for axes in panels:
        axes.set_xlabel(label)
        if (ticks := table[x]).nunique() <= 6 and (ticks % 1 == 0).all():
            axes.set_xticks(sorted(ticks.unique()))
        if descending:
            axes.invert_xaxis()
    panels[0].set(ylabel="divergence of the answers, nats", yscale="log")
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[1].axhline(start, color=INK, linestyle=":", linewidth=2, label="as it is")
    panels[1].set(ylabel="F1, %", ylim=(0, 103))
    figure.legend(
        *panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=12
    )
    figure.suptitle(title, fontweight="bold", fontsize=15)
    return figure
