"""Figures of answers: EM and F1 for groups of questions."""

import pandas as pd
from matplotlib.figure import Figure

from qalib.report.plots.style import BLUE, GREEN, blank, styled


@styled
def by_group(table: pd.DataFrame, title: str, scope: str) -> Figure:
    """EM and F1 for groups of questions (`evaluation.by_group`), with the number of questions in each.

    `scope` says which questions they are (`QuestionSet.scope`).
    """
    figure, axes = blank(2.9)
    places = range(len(table))
    column = table.columns[0]
    for shift, measure, colour, label in ((-0.2, "exact_match", GREEN, "EM"), (0.2, "f1", BLUE, "F1")):
        bars = axes.bar([p + shift for p in places], table[measure], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    labels = [f"{name}\n{count:,}" for name, count in zip(table[column], table.questions, strict=True)]
    axes.set(
        xticks=places, xticklabels=labels, ylabel="%", ylim=(0, 109), xlabel=f"{column.replace('_', ' ')} / questions"
    )
    axes.set_title(f"{title}\n{scope}")
    axes.legend(frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, 1.13))
    return figure
