"""Figures of time: speedups, whole evaluations, sweeps."""

import itertools
import textwrap

import pandas as pd
from matplotlib.figure import Figure

from qalib import runtimes
from qalib.benchmark import summary
from qalib.report.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, blank, styled
from qalib.utils.frames import rows_of

LETTER = 0.013  # the width of one, of the width of the axes


@styled
def speedup(rows: pd.DataFrame) -> Figure:
    """Speedup over the fastest dense runtime (`latency.compare`), and beside it that over dense of the same type.

    The mark is the multiply-add ratio, at the pace of dense of the same type. A runtime that could not run here has
    a row but no bar. A number in brackets refers to a remark below.
    """
    remarks = list(dict.fromkeys(remark for remark in rows.remark if remark))
    numbered = [f"[{number}] {remark}" for number, remark in enumerate(remarks, 1)]
    below = [line for remark in numbered for line in textwrap.wrap(remark, 120, subsequent_indent=" " * 6)]
    figure, axes = blank(1.1 + 0.34 * len(rows) + 0.16 * len(below))
    places = range(len(rows))
    first = rows.iloc[0]
    speedups = rows.speedup_over_best
    bounds = rows.bound * speedups / rows.speedup
    axes.barh(places, speedups.fillna(0), 0.6, color=_colours(rows), edgecolor=INK, linewidth=0.5)
    sparse = [runtimes.REGISTRY[name].sparse for name in rows.runtime]
    limit = max(bounds[sparse].max() if any(sparse) else 1, speedups.max())
    right = 1.1 * limit
    for place, row in enumerate(rows_of(rows)):
        if row.note:
            axes.annotate(f"not run: {row.note}", (0.02 * limit, place), va="center")
            continue
        bar, mark = speedups.iloc[place], bounds.iloc[place] if sparse[place] else 0
        own = "" if row.best_baseline == row.baseline else f" ({row.speedup:.2f}x over {row.baseline})"
        remark = f" [{remarks.index(row.remark) + 1}]" if row.remark else ""
        text = f"{bar:.2f}x{own}{remark}"
        ends = bar + (0.04 + LETTER * len(text)) * 1.5 * limit
        start = (mark if bar < mark < ends else bar) + 0.02 * limit  # the mark must not overlap the text
        axes.annotate(text, (start, place), va="center")
        right = max(right, start / (1 - LETTER * len(text)))
    marked = [place for place in places if sparse[place]]
    axes.scatter(
        bounds.iloc[marked], marked, marker="|", s=220, color=ORANGE, linewidth=2.2, zorder=3,
        label="multiply-add ratio",
    )  # fmt: skip
    axes.set(
        yticks=places,
        yticklabels=rows.runtime + " " + rows["dtype"],
        xlabel=f"speedup over {first.best_baseline}, the fastest dense runtime of this run",
        xlim=(0, right),
    )
    axes.invert_yaxis()
    axes.set_title(
        f"One forward pass, {first.batch} x {first.length} tokens on {first.device}: median of {first.rounds} rounds"
    )
    figure.legend(loc="outside upper right", frameon=False)
    if below:
        figure.supxlabel("\n".join(below), fontsize=7, x=0.02, ha="left")
    return figure


@styled
def fastest_of_each(rows: pd.DataFrame) -> Figure:
    """Draw one bar for the fastest runtime of each library (`latency.compare`), fastest first, with its time and F1."""
    timed = rows[rows.median_seconds.notna()]
    timed = timed.assign(library=timed.runtime.map(_library))
    best = timed.sort_values("median_seconds").drop_duplicates("library")
    figure, axes = blank(0.9 + 0.34 * len(best))
    bars = axes.barh(range(len(best)), best.speedup_over_best, 0.6, color=_colours(best), edgecolor=INK, linewidth=0.5)
    scores = [f", F1 {f1:.1f}" if pd.notna(f1) else "" for f1 in best.get("f1", [None] * len(best))]
    texts = [
        f"{row.speedup_over_best:.2f}x, {1000 * row.median_seconds:.0f} ms{score}"
        for row, score in zip(rows_of(best), scores, strict=True)
    ]
    axes.bar_label(bars, labels=texts, padding=4)
    first = best.iloc[0]
    axes.set(
        yticks=range(len(best)),
        yticklabels=[
            f"{name} {dtype}" if name.startswith(library) else f"{library}: {name} {dtype}"
            for name, library, dtype in zip(best.runtime, best.library, best["dtype"], strict=True)
        ],
        xlabel=f"speedup over {first.best_baseline}, the fastest dense runtime of this run",
        xlim=(0, 1.35 * best.speedup_over_best.max()),
    )
    axes.invert_yaxis()
    axes.set_title(f"The fastest runtime of each library, {first.batch} x {first.length} tokens on {first.device}")
    return figure


def _library(name: str) -> str:
    """The library of a runtime: torch for plain dense, qalib for our own."""
    if runtimes.REGISTRY[name].peer:
        return name.partition("-")[0]
    return "qalib" if runtimes.REGISTRY[name].sparse else "torch"


@styled
def evaluation_time(rows: pd.DataFrame) -> Figure:
    """Seconds of a whole evaluation by way (`end_to_end.evaluation_time`), and speedups over the fastest dense one."""
    figure, axes = blank(0.9 + 0.25 * len(rows))
    bars = axes.barh(rows.way, rows.median_seconds, 0.6, color=_colours(rows), edgecolor=INK, linewidth=0.5)
    labels = [f"{s:.1f} s, {x:.2f}x" for s, x in zip(rows.median_seconds, rows.speedup_over_best, strict=True)]
    axes.bar_label(bars, labels=labels, padding=4)
    first = rows.iloc[0]
    axes.set(
        xlabel=f"seconds, texts in to answers out; speedup over {first.best_baseline}, the fastest dense way",
        xlim=(0, 1.25 * rows.median_seconds.max()),
    )
    axes.invert_yaxis()
    headline = summary.evaluation_headline(rows, "")
    runtime = str(headline.evaluation_way).split(",")[0]
    steps = [
        f"{headline.batching_speedup:.2f}x by batching" if headline.batching_speedup else "",
        f"{headline.evaluation_speedup:.2f}x by {runtime}" if headline.evaluation_speedup else "",
    ]
    axes.set_title(f"The whole evaluation: {', then '.join(filter(None, steps))}")
    return figure


def _colours(rows: pd.DataFrame) -> list[str]:
    """Blue for runtimes that skip zeros, grey for dense, purple for other libraries'."""
    kinds = [runtimes.REGISTRY[name] for name in rows.runtime]
    return [PURPLE if kind.peer else BLUE if kind.sparse else GREY for kind in kinds]


def _baseline(rows: pd.DataFrame) -> str:
    """The fastest dense runtime, by name if it is the same throughout."""
    names = rows.best_baseline.unique()
    return f"{names[0]},\nthe fastest dense runtime" if len(names) == 1 else "the fastest dense runtime"


UNITS = {"density": " of the encoder matrices", "length": " of a window, tokens", "threads": ""}


@styled
def sweep(rows: pd.DataFrame, over: str) -> Figure:
    """Speedup over the fastest dense runtime against a column of a table of `sweep`, with the multiply-add ratio."""
    figure, axes = blank(3.2)
    lines = rows[(rows.runtime != "dense") & rows.speedup.notna()].groupby(["runtime", "dtype"], sort=False)
    looks = itertools.cycle(zip((BLUE, GREEN, ORANGE, PURPLE, INK), "os^Dv", strict=True))
    looks = dict(zip(rows[rows.runtime != "dense"].runtime.unique(), looks, strict=False))
    for (runtime, dtype), part in lines:
        (colour, marker), line = looks[runtime], "-" if dtype == "fp32" else "--"
        style = {"color": colour, "marker": marker, "markersize": 5, "linestyle": line}
        axes.plot(part[over], part.speedup_over_best, label=f"{runtime} {dtype}", **style)
    bound = rows[[runtimes.REGISTRY[name].sparse for name in rows.runtime]].dropna(subset="bound").drop_duplicates(over)
    axes.plot(bound[over], bound.bound, color=INK, linestyle=":", label="multiply-add ratio")
    axes.axhline(1, color=GREY, zorder=1)
    first = rows.iloc[0]
    shape = f"batches of {first.batch}" if over == "length" else f"{first.batch} x {first.length} tokens"
    axes.set(xlabel=f"{over}{UNITS[over]}", ylabel=f"speedup over {_baseline(rows)}", yscale="log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}x" if value in (2, 3, 5) else "")
    axes.set_title(f"Speedup by {over}, {shape}")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
