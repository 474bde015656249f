"""Figures: each a function from a table to a matplotlib figure, the same bytes on every run.

Colours are the Okabe-Ito set, told apart by the colour-blind; nothing is said by colour alone.
"""

import base64
import io
from pathlib import Path

import altair
import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from qalib import runtimes
from qalib.encoder import KINDS
from qalib.sparsity import Summary

BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#D9D9D9", "#222222"
WIDTH = 7.2  # inches; a model card shows figures about 700 pixels wide
PUBLISHED = Path(__file__).parent / "data" / "published_checkpoints.csv"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.bbox": "tight",
    "savefig.facecolor": "white",
}


def blank(height: float, *shape: int, **layout) -> tuple[Figure, Axes]:
    """A figure as wide as a card, `height` inches high, and its axes (an array of them for a grid of `shape`)."""
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(*shape, **layout)


def heads(table: pd.DataFrame) -> Figure:
    """Every attention head of every layer (`sparsity.heads`): working, called removed, and removable without loss."""
    layers, count = table.layer.max() + 1, table["head"].max() + 1
    figure, axes = blank(1.4 + 0.27 * layers)
    working, called = ~table.called_removed & ~table.removable, table.called_removed & ~table.removable
    states = [
        ("working", working, BLUE, "s", BLUE),
        ("called removed by the card's rule, but changes the output", called, "white", "s", ORANGE),
        ("removable without changing the output", table.removable, GREY, "x", "#555555"),
    ]
    for label, chosen, face, marker, edge in states:
        colours = {"color": edge} if marker == "x" else {"facecolor": face, "edgecolor": edge}
        part = table[chosen]
        axes.scatter(
            part["head"], part.layer, s=90, marker=marker, linewidth=1.6, label=f"{label} ({len(part)})", **colours
        )
    for layer, rows in table.groupby("layer"):
        axes.text(count + 0.1, layer, f"{(~rows.called_removed).sum()} of {count} left", va="center", fontsize=8)
    axes.set(xlabel="head", ylabel="layer", xticks=range(count), yticks=range(layers), xlim=(-0.6, count + 2.2),
             ylim=(layers - 0.4, -0.6))  # fmt: skip
    left = (~table.called_removed).sum()
    axes.set_title(f"{left} of {len(table)} attention heads are left under the card's rule")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14 - 0.3 / layers), frameon=False, fontsize=8)
    return figure


def density(matrices: pd.DataFrame) -> Figure:
    """Density of each encoder matrix (`sparsity.per_matrix`) as a labelled grid, layers down, kinds across."""
    grid = matrices.pivot(index="layer", columns="kind", values="density")[list(KINDS)]
    figure, axes = blank(1.3 + 0.3 * len(grid))
    picture = axes.imshow(100 * grid, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in zip(
        ((r, c) for r in range(len(grid)) for c in range(6)), grid.to_numpy().flat, strict=True
    ):
        axes.text(
            column, row, f"{100 * value:.0f}", ha="center", va="center", color="white" if value < 0.5 else "black"
        )
    axes.set(xticks=range(6), xticklabels=list(KINDS), yticks=range(len(grid)), ylabel="layer")
    axes.spines[:].set_visible(False)
    whole = 100 * matrices.kept_blocks.sum() / matrices.blocks.sum()
    axes.set_title(f"Kept blocks of each matrix, % ({whole:.1f} % over all)")
    figure.colorbar(picture, ax=axes, label="kept blocks / all blocks, %")
    return figure


def patterns(masks: dict[tuple[int, str], Tensor]) -> Figure:
    """The block pattern of every encoder matrix (`sparsity.patterns`), at one scale: a dark square is a kept block.

    FFN in is drawn transposed, so that a neuron is one column both there and in FFN out.
    """
    layers = max(layer for layer, _ in masks) + 1
    upright = {(n, kind): mask.T if kind == "FFN in" else mask for (n, kind), mask in masks.items()}
    widths, height = [upright[0, kind].shape[1] for kind in KINDS], upright[0, "query"].shape[0]
    scale = WIDTH * 0.86 / (sum(widths) + 6)
    figure, grid = blank(layers * (height * scale + 0.09) + 0.7, layers, 6, squeeze=False, width_ratios=widths)
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0.01, wspace=0.01)
    for (layer, kind), mask in upright.items():
        axes = grid[layer, list(KINDS).index(kind)]
        axes.imshow(mask.numpy(), cmap=ListedColormap(["#EEEEEE", INK]), vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, linewidth=0.4, color="#999999")
        if layer == 0:
            label = {"FFN in": "FFN in, transposed", "attention output": "attention\noutput"}.get(kind, kind)
            axes.set_title(label, loc="center", fontsize=7.5, fontweight="normal")
        if kind == "query":
            axes.set_ylabel(f"layer {layer}", fontsize=7, rotation=0, ha="right", va="center")
    figure.suptitle("Which blocks of the encoder matrices are kept (dark)", fontsize=10, fontweight="bold")
    return figure


def parameters(table: pd.DataFrame) -> Figure:
    """Parameters by part before and after pruning (`sparsity.parameters`), in millions."""
    figure, axes = blank(2.9)
    places = range(len(table))
    for shift, column, colour, label in ((-0.2, "parameters", GREY, "before"), (0.2, "kept", BLUE, "kept")):
        bars = axes.barh(
            [p + shift for p in places],
            table[column] / 1e6,
            0.38,
            color=colour,
            edgecolor=INK,
            linewidth=0.5,
            label=label,
        )
        axes.bar_label(bars, labels=[f"{v / 1e6:.2f}" for v in table[column]], padding=3, fontsize=8)
    axes.set(yticks=places, yticklabels=table.part, xlabel="parameters, millions")
    axes.invert_yaxis()
    share = 100 * table.kept_share[table.part.str.contains("embeddings")].sum()
    axes.set_title(f"Only the encoder matrices are pruned; embeddings are now {share:.0f} % of the model")
    axes.legend(frameon=False, loc="lower right")
    return figure


def published(models: dict[str, tuple[float, float | None, float | None]]) -> Figure:
    """EM and F1 over linear density of the published SQuAD v1.1 checkpoints of nn_pruning, with other models marked.

    `models` gives linear density, EM and F1 by label, in percent; a model whose EM and F1 are None is a line at its
    density. Source of the points: `data/published_checkpoints.csv`, as the hub's cards state them.
    """
    table = pd.read_csv(PUBLISHED)
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
        if stated[claim] is not None:
            axes.axvline(float(stated[claim]), color=ORANGE, linestyle="--")
            axes.set_title(f"{claim}: the card says {stated[claim]}", fontsize=9)
    return figure


def by_group(table: pd.DataFrame, title: str) -> Figure:
    """EM and F1 of groups of questions (`evaluation.by_group`), with the number of questions in each."""
    figure, axes = blank(2.7)
    places, column = range(len(table)), table.columns[0]
    for shift, measure, colour, label in ((-0.2, "exact_match", GREEN, "EM"), (0.2, "f1", BLUE, "F1")):
        bars = axes.bar([p + shift for p in places], table[measure], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    labels = [f"{name}\n{count:,}" for name, count in zip(table[column], table.questions, strict=True)]
    axes.set(
        xticks=places, xticklabels=labels, ylabel="%", ylim=(0, 109), xlabel=f"{column.replace('_', ' ')} / questions"
    )
    axes.set_title(title)
    axes.legend(frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, 1.13))
    return figure


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


def _picture(mask: Tensor, scale: int = 4) -> str:
    """A block mask as a PNG data URL, kept blocks dark."""
    image = Image.fromarray((~mask).numpy()).resize((mask.shape[1] * scale, mask.shape[0] * scale))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def density_chart(matrices: pd.DataFrame, masks: dict[tuple[int, str], Tensor]) -> str:
    """The density of every matrix as one self-contained interactive HTML page.

    The pointer on a matrix shows its name, density and block pattern, as the published cards' density.js did.
    """
    rows = matrices.assign(
        matrix=[f"layer {m.layer}, {m.kind}" for m in matrices.itertuples()],
        kept=[f"{m.kept_blocks:,} of {m.blocks:,} blocks" for m in matrices.itertuples()],
        image=[_picture(masks[m.layer, m.kind]) for m in matrices.itertuples()],
    )
    chart = (
        altair.Chart(rows, title="Density of every encoder matrix: point at one to see its blocks")
        .mark_bar(size=9)
        .encode(
            x=altair.X("layer:O", title="layer"),
            xOffset=altair.XOffset("kind:N", sort=list(KINDS)),
            y=altair.Y("density:Q", title="kept blocks / all blocks", axis=altair.Axis(format="%")),
            color=altair.Color("kind:N", sort=list(KINDS), title="matrix",
                               scale=altair.Scale(range=[BLUE, "#56B4E9", GREEN, "#F0E442", ORANGE, PURPLE])),
            tooltip=["matrix", "kept", altair.Tooltip("density:Q", format=".1%"), "image"],
        )
        .properties(width=max(420, 58 * (matrices.layer.max() + 1)), height=300)
    )  # fmt: skip
    return chart.to_html(inline=True, fullhtml=True)


def of_sparsity(tables: dict[str, pd.DataFrame], masks: dict[tuple[int, str], Tensor]) -> dict[str, Figure]:
    """The figures of `sparsity.tables` and `sparsity.patterns`, by name."""
    return {
        "heads": heads(tables["heads"]),
        "density": density(tables["matrices"]),
        "patterns": patterns(masks),
        "parameters": parameters(tables["parameters"]),
    }
