"""Figures of time: speedups, whole evaluations, sweeps."""

import itertools

import pandas as pd
from matplotlib.figure import Figure

from qalib import runtimes
from qalib.report.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, blank


def speedup(rows: pd.DataFrame) -> Figure:
    """Speedup over dense of the same type (`benchmark.compare`), the bound by multiply-adds marked beside it.

    What could not be run here has its place, and no bar.
    """
    figure, axes = blank(1.1 + 0.34 * len(rows))
    places, first = range(len(rows)), rows.iloc[0]
    kinds = [runtimes.REGISTRY[name] for name in rows.runtime]
    colours = [PURPLE if kind.peer else BLUE if kind.sparse else GREY for kind in kinds]
    axes.barh(places, rows.speedup.fillna(0), 0.6, color=colours, edgecolor=INK, linewidth=0.5)
    limit = max(rows.bound.max(), rows.speedup.max())
    labels = [f"not run: {n}" if n else f"{s:.2f}x" for s, n in zip(rows.speedup, rows.note, strict=True)]
    beside = [0.02 * limit + max(s, b if b < s + 0.2 * limit else 0)
              for s, b in rows[["speedup", "bound"]].fillna(0).to_numpy()]  # fmt: skip
    for place, (x, label) in enumerate(zip(beside, labels, strict=True)):
        axes.annotate(label, (x, place), va="center")
    bounded = [place for place, kind in enumerate(kinds) if kind.sparse]
    axes.scatter(
        rows.bound.iloc[bounded], bounded, marker="|", s=220, color=ORANGE, linewidth=2.2, zorder=3,
        label="bound by multiply-adds",
    )  # fmt: skip
    axes.set(
        yticks=places, yticklabels=rows.runtime + " " + rows["dtype"], xlabel="speedup over dense of the same type"
    )
    axes.set_xlim(0, 1.15 * limit)
    axes.invert_yaxis()
    axes.set_title(
        f"One forward pass, {first.batch} x {first.length} tokens on {first.device}: median of {first.rounds} rounds"
    )
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.5 / (1.1 + 0.34 * len(rows))))
    return figure


def evaluation_time(rows: pd.DataFrame) -> Figure:
    """Seconds of a whole evaluation by way (`benchmark.evaluation_time`)."""
    figure, axes = blank(1.9)
    bars = axes.barh(
        rows.way, rows.median_seconds, 0.6, color=[GREY] + [BLUE] * (len(rows) - 1), edgecolor=INK, linewidth=0.5
    )
    axes.bar_label(
        bars, labels=[f"{s:.1f} s, {x:.2f}x" for s, x in zip(rows.median_seconds, rows.speedup, strict=True)], padding=4
    )
    axes.set(xlabel="seconds, texts in to answers out", xlim=(0, 1.25 * rows.median_seconds.max()))
    axes.invert_yaxis()
    axes.set_title("The whole evaluation: batches of like length, and smaller matrices")
    return figure


UNITS = {"density": " of the encoder matrices", "length": " of a window, tokens", "threads": ""}


def sweep(rows: pd.DataFrame, over: str) -> Figure:
    """Speedup over dense of the same type against a column of a table of `sweeps`, with the bound by multiply-adds."""
    figure, axes = blank(3.2)
    lines = rows[(rows.runtime != "dense") & rows.speedup.notna()].groupby(["runtime", "dtype"], sort=False)
    looks = zip((BLUE, GREEN, ORANGE, PURPLE, INK), "os^Dv", strict=True)
    for ((runtime, dtype), part), (colour, marker) in zip(lines, itertools.cycle(looks), strict=False):
        axes.plot(part[over], part.speedup, color=colour, marker=marker, markersize=5, label=f"{runtime} {dtype}")
    bound = rows[rows.bound > 1].drop_duplicates(over)
    axes.plot(bound[over], bound.bound, color=INK, linestyle=":", label="bound by multiply-adds")
    axes.axhline(1, color=GREY, zorder=1)
    first = rows.iloc[0]
    shape = {"batch": first.batch, "length": first.length} | ({over: "any"} if over == "length" else {})
    axes.set(xlabel=f"{over}{UNITS[over]}", ylabel="speedup, times", yscale="log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}x" if value in (2, 3, 5) else "")
    axes.set_title(f"Speedup over dense of the same type by {over}, {shape['batch']} x {shape['length']} tokens")
    axes.legend(frameon=False, fontsize=8)
    return figure
