"""Figures that compare a model with others: published checkpoints, what a card states, several reports."""

import itertools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from qalib.report.frontier import RUN, THIS, before_pruning
from qalib.report.plots.style import BLUE, GREEN, GREY, HALO, INK, ORANGE, PURPLE, blank, styled
from qalib.report.plots.training import run_looks
from qalib.sparsity import Summary
from qalib.utils.paths import PUBLISHED_CHECKPOINTS


@styled
def published(models: dict[str, tuple[float, float | None, float | None]]) -> Figure:
    """EM and F1 over linear density of the published SQuAD v1.1 checkpoints of nn_pruning, with other models marked.

    `models` gives linear density, EM and F1 by label, in percent; a model whose EM and F1 are None becomes a line at
    its density. The points are from `published_checkpoints.csv`, as the hub's cards state them.
    """
    table = pd.read_csv(PUBLISHED_CHECKPOINTS)
    figure, panels = blank(3.6, 1, 2, sharex=True)
    bases = {"bert-base-uncased": (BLUE, "o"), "bert-large-uncased-whole-word-masking": (GREEN, "^")}
    for axes, column, place, title in zip(panels, ("exact_match", "f1"), (1, 2), ("EM", "F1"), strict=True):
        for base, (colour, marker) in bases.items():
            part = table[table.base == base]
            name = base.removeprefix("bert-").replace("-uncased", "").replace("-whole-word-masking", " (whole words)")
            axes.scatter(part.linear_density_percent, part[column], s=20, marker=marker, color=colour, alpha=0.55,
                         linewidth=0, label=f"published, BERT {name} ({len(part)})")  # fmt: skip
        for (label, point), marker in zip(models.items(), "*DP", strict=False):
            density, value = point[0], point[place]
            if value is None:
                axes.axvline(density, color=ORANGE, linestyle="--", linewidth=1.4, label=label)
                continue
            axes.scatter([density], [value], s=150, marker=marker, color=ORANGE, edgecolor=INK, label=label, zorder=3)
            spot = {"xytext": (9, 4), "textcoords": "offset points", "fontweight": "bold"}
            axes.annotate(f"{value:.1f}", (density, value), **spot)
        axes.set(xlabel="encoder weights left, %", ylabel=f"{title}, %")
        axes.grid(color="#EEEEEE")
        axes.set_axisbelow(True)
    title = f"EM and F1 over density, among {len(table)} published checkpoints"
    figure.suptitle(title, fontsize=10, fontweight="bold")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7.5
    )
    return figure


@styled
def frontier(rows: pd.DataFrame) -> Figure:
    """F1 over density, and over speedup (`frontier.frontier`): hollow as published, filled what was run here."""
    figure, panels = blank(4.2, 1, 2)
    here, dense, pruned = rows.group.str.startswith((THIS, RUN)), before_pruning(rows), rows[rows.group == THIS].iloc[0]
    marks = {group: mark for group, mark in zip(rows.group[~here].unique(), "os^v", strict=False)}
    looks: dict[str, dict[str, Any]] = {
        group: {"marker": mark, "facecolor": "none", "edgecolor": BLUE} for group, mark in marks.items()
    }
    words = {group: group.removeprefix(f"{RUN}: ") for group in rows.group[here].unique()}
    marked = run_looks(name for group, name in words.items() if group.startswith(RUN))
    for group, name in words.items():
        mark, colour = marked.get(name, ("^", GREEN))
        looks[group] = {"marker": mark, "facecolor": colour, "edgecolor": INK, "zorder": 3, "s": 30}
    looks[THIS] = {"marker": "*", "facecolor": ORANGE, "edgecolor": INK, "s": 170, "zorder": 4}
    drawn = rows.group[rows.f1.notna()].unique()
    for axes, column in zip(panels, ("linear_density_percent", "speedup"), strict=True):
        for group, look in ((group, look) for group, look in looks.items() if group in drawn):
            part = rows[(rows.group == group) & rows[column].notna() & rows.f1.notna()]
            hardware = ", ".join(rows.hardware[rows.group == group].dropna().unique())
            name = words.get(group, group)
            label = f"{name} ({hardware})" if hardware else name
            axes.scatter(part[column], part.f1, label=label, **({"s": 22, "linewidth": 0.8} | look))
            if group == THIS:
                for x, y in zip(part[column], part.f1, strict=True):
                    axes.annotate(f"{y:.1f}", (x, y), (9, -5), textcoords="offset points", fontweight="bold", **HALO)
        if dense is not None:
            axes.plot([dense[column], pruned[column]], [dense.f1, pruned.f1], color=ORANGE, linewidth=1.4, zorder=2)
        axes.grid(color="#EEEEEE")
        axes.set_axisbelow(True)
    panels[0].set(xlabel="encoder weights left, %", ylabel="F1 on SQuAD v1.1 dev, %", title="Over density")
    panels[1].set(xlabel="speed over dense BERT-base, same hardware", title="Over speed", xscale="log")
    panels[1].xaxis.set_major_formatter("{x:g}x")
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    ticks = [1, 2, 4, 8, 16, 32, 64]
    panels[1].set_xticks([tick for tick in ticks if tick < 1.5 * rows.speedup.max()])
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7.5
    )
    return figure


@styled
def units(summary: Summary, stated: dict[str, str | None]) -> Figure:
    """One model's density with and without pooler, and one file's size in MB and MiB, beside what a card states."""
    figure, panels = blank(1.9, 1, 2)
    pooled, plain = summary.overall_density_with_pooler_percent, summary.overall_density_percent
    size = summary.heads_cut_out_fp32_bytes
    bars = [
        (
            panels[0],
            ["with pooler", "the model itself"],
            [pooled, plain],
            "kept / all parameters, %",
            "overall density",
        ),
        (
            panels[1],
            ["in MiB (2^20)", "in MB (10^6)"],
            [size / 2**20, size / 1e6],
            "fp32 file, heads cut out",
            "file size",
        ),
    ]
    for axes, labels, values, what, claim in bars:
        drawn = axes.barh(labels, values, 0.55, color=[BLUE, GREY], edgecolor=INK, linewidth=0.5)
        axes.bar_label(drawn, fmt="%.1f", padding=4)
        axes.set(xlabel=what, xlim=(0, 1.25 * max(values)))
        axes.invert_yaxis()
        if (text := stated[claim]) is not None:
            axes.axvline(float(text), color=ORANGE, linestyle="--")
            axes.set_title(f"{claim}: the card says {text}", fontsize=9)
    return figure


@styled
def comparison(table: pd.DataFrame, scope: str) -> Figure | None:
    """F1 and speedups of several models over their linear density (`comparison.table`), one mark per model.

    `scope` says which questions F1 is over (`QuestionSet.scope`). A panel without a value is left out; None if both
    are.
    """
    speeds = ["block_sparse_speedup", "compact_speedup"]
    panels = [columns for columns in (["f1"], speeds) if table[columns].notna().any(axis=None)]
    if not panels:
        return None
    figure, grid = blank(3.6, 1, len(panels), squeeze=False)
    drawn = table[table[["f1", *speeds]].notna().any(axis=1)]
    marks = itertools.cycle(zip("osD^vPXp*h", itertools.cycle((BLUE, ORANGE, GREEN, PURPLE, INK)), strict=False))
    for row, (marker, colour) in zip(drawn.itertuples(), marks, strict=False):
        style = {"marker": marker, "color": colour, "markersize": 8, "linestyle": "none", "label": row.report}
        for axes, columns in zip(grid[0], panels, strict=True):
            for column, fill in zip(columns, ("full", "none"), strict=False):
                axes.plot(row.linear_density_percent, getattr(row, column), fillstyle=fill, **style)
    for axes, columns in zip(grid[0], panels, strict=True):
        axes.set(xlabel="linear weights kept, %", xlim=(0, 105))
        if columns == ["f1"]:
            axes.set(ylabel="F1, %", ylim=(0, 100))
            axes.set_title(f"Answers\n{scope}", fontsize=9)
        else:
            axes.set(ylabel="full: block-sparse, hollow: compact", ylim=(0, None))
            axes.set_title("Speedup over the fastest dense run", fontsize=9)
            axes.axhline(1, color=GREY, zorder=1)
    handles, labels = grid[0][0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique, frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return figure
