"""Trials: figures of what changes: scores that move, heads that are cut, students that learn.

As in `lectures`, a title states what the figure shows, with numbers taken from the data that it draws.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd

from qalib import students as learning
from qalib.boards import Board, board
from qalib.checkpoint import Checkpoint
from qalib.figures import BLUE, GREY, INK, ORANGE
from qalib.lectures import LINES
from qalib.rehearsal import Rehearsal
from qalib.squad import Question


def walk(path: pd.DataFrame, best: Sequence[float]) -> Board:
    """The two weights of `movement.two_weights` on their way, and what magnitude and movement say of them."""
    figure, panels = board(4.6, 1, 3, width_ratios=(1.3, 1, 1))
    end, grid = path.iloc[-1], np.linspace(-0.1, 1.3, 60)
    loss = 0.5 * ((grid[None] - best[0]) ** 2 + (grid[:, None] - best[1]) ** 2)
    panels[0].contour(grid, grid, loss, levels=10, colors="#999999")
    panels[0].plot(path.a, path.b, "o-", color=INK, linewidth=2)
    panels[0].plot(*best, "*", color=ORANGE, markersize=18)
    panels[0].annotate("best", best, xytext=(10, -4), textcoords="offset points")
    panels[0].annotate("start", path.iloc[0][["a", "b"]], xytext=(2, 10), textcoords="offset points")
    panels[0].set(xlabel="weight a", ylabel="weight b", aspect="equal")
    for axes, columns, label in ((panels[1], ("a", "b"), "weight"), (panels[2], ("score_a", "score_b"), "score")):
        for column, (colour, marker, style) in zip(columns, LINES, strict=False):
            axes.plot(path.index, path[column], style, color=colour, marker=marker, linewidth=2.5, label=column[-1])
        axes.set(xlabel="step", ylabel=label)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.legend(frameon=False)
    larger, wanted = "ab"[int(abs(end.a) < abs(end.b))], "ab"[int(end.score_a < end.score_b)]
    steps = f"{len(path) - 1} step" + "s" * (len(path) != 2)
    figure.suptitle(f"After {steps} magnitude keeps {larger}, movement keeps {wanted}", fontweight="bold")
    return figure


def straight_through(cut: float = 0.0) -> Board:
    """The mask as a function of the score, its real slope, and the slope that training takes instead."""
    figure, panels = board(3.6, 1, 2)
    panels[0].plot([cut - 1, cut, cut, cut + 1], [0, 0, 1, 1], color=BLUE, linewidth=3)
    panels[0].set(title="forward: keep or not", ylabel="mask")
    panels[1].plot([cut - 1, cut + 1], [0, 0], color=GREY, linewidth=4, label="true slope: nothing to follow")
    panels[1].plot([cut - 1, cut + 1], [1, 1], "--", color=ORANGE, linewidth=3, label="straight-through: taken for 1")
    panels[1].set(title="backward: the slope", ylabel="d mask / d score", ylim=(-0.2, 1.7))
    panels[1].legend(frameon=False, loc="upper center")
    for axes in panels:
        axes.set(xlabel="score - cut", yticks=(0, 1))
    figure.suptitle("A step has no slope to learn along: training takes it for 1", fontweight="bold")
    return figure


def scores(seen: Rehearsal, table: pd.DataFrame) -> Board:
    """The scores of one matrix's blocks while it is pruned, and what became of them beside their magnitudes
    (`movement.blocks_of`)."""
    figure, panels = board(4.8, 1, 2)
    for column, kept in zip(seen.scores, table.kept, strict=True):
        colour, order = (BLUE, 2) if kept else ("#AAAAAA", 1)
        panels[0].plot(seen.scores.index, seen.scores[column], color=colour, linewidth=1.5, zorder=order)
    cuts = seen.cuts.replace(-np.inf, np.nan)
    panels[0].plot(cuts.index, cuts, "--", color=ORANGE, linewidth=3, label="cut", zorder=3)
    low, high = seen.scores.to_numpy().min(), seen.scores.to_numpy().max()
    room = 0.08 * (high - low)
    panels[0].set(xlabel="step", ylabel="score of a block", ylim=(low - room, high + room))
    for kept, colour, marker, label in ((True, BLUE, "o", "kept"), (False, INK, "x", "pruned")):
        part = table[table.kept == kept]
        panels[1].scatter(part.magnitude, part.score, s=60, color=colour, marker=marker, label=label, zorder=3)
    panels[1].axhline(seen.cuts.iloc[-1], linestyle="--", color=ORANGE, linewidth=3)
    panels[1].set(xlabel="root mean square of its weights before", ylabel="score after")
    panels[1].locator_params(axis="x", nbins=5)
    for axes in panels:
        axes.legend(frameon=False)
    same = int((table.kept & table.kept_by_magnitude).sum())
    figure.suptitle(f"Of {int(table.kept.sum())} blocks that movement keeps, magnitude would keep {same}",
                    fontweight="bold")  # fmt: skip
    return figure


def heads(table: pd.DataFrame) -> Board:
    """What F1 does without each head (`attention.one_by_one`); crosses mark heads that can go without loss."""
    grid = table.pivot(index="layer", columns="head", values="change")
    limit = max(1.0, float(grid.abs().to_numpy().max()))
    figure, axes = board(1.8 + 0.6 * len(grid))
    picture = axes.imshow(grid, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    for row in table.itertuples():
        dark = abs(row.change) > 0.6 * limit
        text = "x" if row.removable else f"{row.change:+.1f}" if abs(row.change) >= 0.05 else "0"
        axes.text(row.head, row.layer, text, ha="center", va="center", color="white" if dark else INK, fontsize=12)
    axes.set(xticks=range(grid.shape[1]), yticks=range(len(grid)), xlabel="head", ylabel="layer")
    figure.colorbar(picture, ax=axes, label="change of F1, points")
    moves = f"F1 by {table.change.min():+.1f} to {table.change.max():+.1f} points"
    axes.set_title(f"{int(table.removable.sum())} of {len(table)} heads (x) are free; each other moves {moves}")
    return figure


def orders(tables: Mapping[str, pd.DataFrame], start: float) -> Board:
    """F1 while more and more heads are cut (`attention.in_order`), one line an order."""
    figure, axes = board(4.4)
    for (name, table), (colour, marker, style) in zip(tables.items(), LINES, strict=False):
        x, y = [0, *table.cut], [start, *table.f1]
        axes.plot(x, y, style, color=colour, marker=marker, linewidth=2.5, markersize=8, label=name)
    axes.set(xlabel="heads cut", ylabel="F1, %", ylim=(0, 103))
    axes.legend(frameon=False)
    last = {name: table.iloc[len(table) // 2] for name, table in tables.items()}
    said = ", ".join(f"{name} {row.f1:.0f}" for name, row in last.items())
    axes.set_title(f"F1 without {int(next(iter(last.values())).cut)} heads: {said}")
    return figure


def soft(teacher: Checkpoint, question: Question, temperature: float, count: int = 8) -> Board:
    """The likeliest `count` tokens that the answer begins with, as the teacher says at a temperature, beside the
    reference (in the question's first window)."""
    tokens, logits, answer = learning.first_token(teacher, question)
    chosen = logits.topk(min(count, len(tokens))).indices.sort().values.numpy()
    chance = (100 * (logits / temperature).softmax(-1)).numpy()
    hard = [100.0 * (place == answer) for place in chosen.tolist()]
    figure, axes = board(4.4)
    places = np.arange(len(chosen))
    axes.bar(places - 0.2, hard, 0.38, color=GREY, edgecolor=INK, hatch="//", label="hard target: the reference")
    bars = axes.bar(places + 0.2, chance[chosen], 0.38, color=BLUE, label=f"teacher at temperature {temperature:g}")
    axes.bar_label(bars, labels=[f"{value:.1f}" for value in chance[chosen]], padding=2, fontsize=11)
    axes.set(xticks=places, xticklabels=[f"{tokens[i]}\n({i})" for i in chosen.tolist()], ylabel="probability, %",
             xlabel=f"token (its place in the window)\nQuestion: {question.question}", ylim=(0, 115))  # fmt: skip
    sure = f"{chance.max():.0f} % on the teacher's first choice, {100 - chance.max():.0f} % on others"
    axes.set_title(f"Temperature {temperature:g}: {sure}")
    axes.legend(frameon=False, loc="upper right")
    return figure


def students(table: pd.DataFrame) -> Board:
    """How the students of `students.compare` answer, and how far they are from their teacher."""
    figure, panels = board(1.6 + 0.55 * len(table), 1, 2, sharey=True)
    colours = matplotlib.colormaps["cividis"](np.linspace(0.1, 0.9, len(table)))
    for axes, column, label in (
        (panels[0], "f1", "F1, %"),
        (panels[1], "divergence", "distance from the teacher, nats"),
    ):
        bars = axes.barh(table.model, table[column], 0.6, color=colours, edgecolor=INK)
        axes.bar_label(bars, fmt="%.1f" if column == "f1" else "%.2f", padding=4)
        axes.set(xlabel=label, xlim=(0, 1.25 * max(table[column].max(), 1e-9)))
    panels[0].invert_yaxis()
    said = ", ".join(f"{row.model.removeprefix('student, ')} {row.f1:.0f}" for row in table.iloc[1:].itertuples())
    figure.suptitle(f"F1 of the student: {said}", fontweight="bold")
    return figure
