"""Figures of pruning runs."""

import textwrap
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from qalib.pruning.history import FURTHER, OWN, run_name
from qalib.report.plots.style import BLUE, GREEN, GREY, HALO, INK, ORANGE, blank, styled
from qalib.utils.frames import rows_of

RGB = tuple[float, float, float]
NEAR = 4.0  # densities, in %, that are about the same
LOOKS = {  # colour and marker by method
    "magnitude": ("#8C8C8C", "s"),
    "movement": (ORANGE, "D"),
    "obs": (INK, "v"),
    FURTHER: (BLUE, "o"),
    "dense": (GREEN, "^"),
}


def run_looks(names: Iterable[str]) -> dict[str, tuple[str, RGB]]:
    """Marker and colour of runs by `history.run_name`: their method's, paler the shorter the run; a star for OWN."""
    lengths: dict[str, set[int]] = {}
    for name in set(names) - {OWN}:
        method, length = name.rsplit(", ", 1)
        lengths.setdefault(method, set()).add(int(length.removesuffix("k windows")))
    looks: dict[str, tuple[str, RGB]] = {OWN: ("*", to_rgb(ORANGE))}
    for method, known in lengths.items():
        colour, marker = LOOKS[method]
        for rank, length in enumerate(sorted(known, reverse=True)):
            full = 1 - 0.6 * rank / max(1, len(known) - 1)
            red, green, blue = (full * part + 1 - full for part in to_rgb(colour))
            looks[f"{method}, {length}k windows"] = marker, (red, green, blue)
    return looks


@styled
def runs(table: pd.DataFrame) -> Figure:
    """F1 over density of pruning runs (`history.read_runs`) and their teacher: one line per method and length."""
    figure, axes = blank(3.6)
    teacher = table.teacher_f1.max()
    axes.axhline(teacher, color=INK, linewidth=0.8, linestyle=":", zorder=0, label="the best teacher, dense")
    sides = [{"xytext": (8, -3)}, {"xytext": (-8, -3), "ha": "right"}]
    table = table.sort_values(["density", "f1"], ascending=[True, False])
    # Labels of points of about the same density take turns at the sides, from the best downwards, or they overlap.
    table = table.assign(
        side=table.groupby((table.density / NEAR).round()).cumcount() % 2,
        name=[OWN if run.run == OWN else run_name(run.method, run.windows) for run in rows_of(table)],
    )
    looks = run_looks(table.name)
    for name, rows in table.groupby("name", sort=False):
        marker, colour = looks[str(name)]
        size = 13 if name == OWN else 6
        style = {"color": colour, "marker": marker, "markeredgecolor": INK, "markersize": size, "linewidth": 1.5}
        own = f" ({run_name(rows.method.iloc[0], rows.windows.iloc[0])})" if name == OWN else ""
        axes.plot(rows.density, rows.f1, label=textwrap.fill(f"{name}{own}", 40), **style)
        for row in rows_of(rows):
            place = {"textcoords": "offset points", "fontsize": 8} | sides[row.side] | HALO
            if abs(row.f1 - teacher) < 2:  # or the teacher's line goes through the number
                place["xytext"] = place["xytext"][0], 5
            axes.annotate(f"{row.f1:.1f}", (row.density, row.f1), **place)
    axes.set(
        xlabel="linear weights kept, %", ylabel="F1, %", title="What is kept, and how it was chosen", ylim=(0, None)
    )
    axes.set_xlim(0, min(108, 1.3 * table.density.max()))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def minimal_run(log: pd.DataFrame) -> Figure:
    """Loss, density and heads left over the steps of `minimal.prune_minimal`."""
    figure, panels = blank(2.6, 1, 3)
    panels[0].plot(log.step, log.loss, color=INK, linewidth=1)
    panels[0].set(title="loss")
    panels[1].plot(log.step, 100 * log.scheduled_density, color=ORANGE, linestyle="--", label="scheduled")
    panels[1].plot(log.step, 100 * log.density, color=BLUE, label="density")
    panels[1].set(title="kept blocks, %", ylim=(0, 103))
    panels[1].legend(frameon=False, fontsize=8)
    panels[2].plot(log.step, log.heads_left, color=GREEN)
    panels[2].set(title="heads left", ylim=(0, None))
    for axes in panels:
        axes.set_xlabel("step")
    return figure


@styled
def scores(seen: pd.DataFrame, thresholds: pd.Series) -> Figure:
    """The score of every block of one matrix over the steps, and the score above which a block is kept."""
    figure, axes = blank(3.4)
    kept = seen.iloc[-1] > thresholds.iloc[-1]
    for column in seen:
        axes.plot(
            seen.index,
            seen[column],
            color=BLUE if kept[column] else GREY,
            linewidth=0.6,
            zorder=2 if kept[column] else 1,
        )
    low, high = float(seen.to_numpy().min()), float(seen.to_numpy().max())
    room = 0.1 * (high - low)
    drawn = thresholds.clip(lower=low - 9 * room)  # it comes from far below, where no score is
    axes.plot(drawn.index, drawn, color=ORANGE, linewidth=2, label="threshold: blocks below are zero")
    axes.plot([], [], color=BLUE, label=f"kept at the end ({int(kept.sum())})")
    axes.plot([], [], color=GREY, label=f"pruned ({int((~kept).sum())})")
    axes.set(xlabel="step", ylabel="score of a block", ylim=(low - room, high + room))
    axes.set_title("Scores drift apart as the threshold rises through them")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


@styled
def training(log: pd.DataFrame) -> Figure:
    """Losses and density over the windows of a real run (`history.read_log`), and F1 where a checkpoint was scored."""
    figure, panels = blank(2.9, 1, 2)
    steps = log[log.density.notna()]
    seen = steps.windows / 1000
    for name, colour in (("answer_loss", INK), ("distillation_loss", BLUE), ("hidden_loss", ORANGE)):
        if name in steps:
            panels[0].plot(seen, steps[name], color=GREY, linewidth=0.6, zorder=1)
            panels[0].plot(
                seen, steps[name].rolling(15, min_periods=1).median(), color=colour, label=name.replace("_", " ")
            )
    panels[0].set(title="loss (median of 15 lines of the log)", xlabel="windows seen, thousands", ylim=(0, None))
    panels[1].plot(seen, 100 * steps.steered_density, color=ORANGE, linestyle="--", label="steered to")
    panels[1].plot(seen, 100 * steps.density, color=BLUE, label="kept weights, %")
    if "f1" in log and log.f1.notna().any():
        panels[1].plot(log.windows[log.f1.notna()] / 1000, log.f1.dropna(), "D-", color=GREEN, label="F1, %")
    panels[1].set(title="density", xlabel="windows seen, thousands", ylim=(0, 103))
    for axes in panels:
        axes.legend(frameon=False, fontsize=8)
    return figure


@styled
def layers(log: pd.DataFrame) -> Figure:
    """Density of each kind of matrix, mean over the layers, and of each layer, mean over the kinds, over a real run."""
    steps = log.assign(densities=log.densities.ffill())  # a line has those that changed
    steps = steps[steps.densities.notna()]
    table = pd.DataFrame(steps.densities.tolist(), index=steps.windows / 1000)
    names = table.columns.str.split(" ", n=1)
    changed = table.index[(table.diff().abs() > 1e-3).any(axis=1)]
    last, end = (changed[-1] if len(changed) else table.index[-1]), table.index[-1]
    after = f"; unchanged from {last:.0f} to {end:.0f}" if 1.3 * last < end else ""
    figure, panels = blank(3.2, 1, 2, sharey=True)
    for axes, part, title in ((panels[0], 1, "by kind"), (panels[1], 0, "by layer")):
        groups = list(dict.fromkeys(names.str[part]))
        for group, shade in zip(groups, np.linspace(0, 0.9, len(groups)), strict=True):
            mean = 100 * table.loc[:, names.str[part] == group].mean(axis=1)
            label = f"{group if part else f'layer {group}'}: {mean.iloc[-1]:.0f} %"
            axes.plot(mean.index, mean, color=colormaps["viridis"](shade), label=label)
        axes.set(title=title, ylim=(0, 103))
        axes.set_xlim(0, 1.3 * last if after else end)
        axes.legend(frameon=False, fontsize=7.5)
    panels[0].set_ylabel("kept blocks, %")
    figure.supxlabel(f"windows seen, thousands{after}", fontsize=9)
    return figure
