"""Figures of what pruning left: heads, densities, block patterns, parameters."""

import base64
import io
from typing import cast

import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from torch import Tensor

from qalib.model.bert import LINEAR_LAYERS
from qalib.report.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, WIDTH, blank, styled
from qalib.utils.frames import rows_of

CHART_HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { margin: 8px; max-width: 900px; }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; }
  canvas, svg { filter: invert(.9) hue-rotate(180deg); }
  #vg-tooltip-element { background: #22252a; color: #e6e6e6; }
}
</style>"""
SHADES = LinearSegmentedColormap.from_list("shades", ["#EEEEEE", INK])


@styled
def heads(table: pd.DataFrame) -> Figure:
    """Every attention head of every layer (`sparsity.heads`): working, called removed, and removable without loss."""
    layers, count = table.layer.max() + 1, table["head"].max() + 1
    figure, axes = blank(1.4 + 0.27 * layers)
    working = ~table.called_removed & ~table.removable
    called = table.called_removed & ~table.removable
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


@styled
def density(matrices: pd.DataFrame) -> Figure:
    """Density of each encoder matrix (`sparsity.per_matrix`) as a labelled grid, layers down, kinds across."""
    grid = matrices.pivot(index="layer", columns="kind", values="density")[list(LINEAR_LAYERS)]
    figure, axes = blank(1.3 + 0.3 * len(grid))
    picture = axes.imshow(100 * grid, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in zip(
        ((r, c) for r in range(len(grid)) for c in range(6)), grid.to_numpy().flat, strict=True
    ):
        axes.text(
            column, row, f"{100 * value:.0f}", ha="center", va="center", color="white" if value < 0.5 else "black"
        )
    axes.set(xticks=range(6), xticklabels=list(LINEAR_LAYERS), yticks=range(len(grid)), ylabel="layer")
    axes.spines[:].set_visible(False)
    whole = 100 * matrices.kept_weights.sum() / matrices.weights.sum()
    axes.set_title(f"Weights left in each matrix, % ({whole:.1f} % over all)")
    figure.colorbar(picture, ax=axes, label="weights that are not zero / all weights, %")
    return figure


@styled
def patterns(shares: dict[tuple[int, str], Tensor]) -> Figure:
    """What is left of every encoder matrix (`sparsity.block_fill`), at one scale: the darker a block, the more is left.

    FFN in is drawn transposed, so that a neuron is one column both there and in FFN out.
    """
    layers = max(layer for layer, _ in shares) + 1
    upright = {(n, kind): mask.T if kind == "FFN in" else mask for (n, kind), mask in shares.items()}
    widths = [upright[0, kind].shape[1] for kind in LINEAR_LAYERS]
    height = upright[0, "query"].shape[0]
    scale = WIDTH * 0.86 / (sum(widths) + 6)
    figure, grid = blank(layers * (height * scale + 0.09) + 0.7, layers, 6, squeeze=False, width_ratios=widths)
    cast(ConstrainedLayoutEngine, figure.get_layout_engine()).set(h_pad=0.02, w_pad=0.02, hspace=0.01, wspace=0.01)
    for (layer, kind), mask in upright.items():
        axes = grid[layer, list(LINEAR_LAYERS).index(kind)]
        axes.imshow(mask.numpy(), cmap=SHADES, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, linewidth=0.4, color="#999999")
        if layer == 0:
            label = {"FFN in": "FFN in, transposed", "attention output": "attention\noutput"}.get(kind, kind)
            axes.set_title(label, loc="center", fontsize=7.5, fontweight="normal")
        if kind == "query":
            axes.set_ylabel(f"layer {layer}", fontsize=7, rotation=0, ha="right", va="center")
    whole = all(((share == 0) | (share == 1)).all() for share in shares.values())
    blocks, tiles = (
        "Which blocks of the encoder matrices are kept (dark)",
        "Weights left in each tile (the darker, the more)",
    )
    figure.suptitle(blocks if whole else tiles, fontsize=10, fontweight="bold")
    return figure


@styled
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


def _picture(share: Tensor, scale: int = 4) -> str:
    """Shares of blocks as a PNG data URL: the fuller, the darker."""
    grey = (255 * (1 - share)).round().byte()
    image = Image.fromarray(grey.numpy()).resize(
        (share.shape[1] * scale, share.shape[0] * scale), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def density_chart(matrices: pd.DataFrame, shares: dict[tuple[int, str], Tensor]) -> str:
    """The density of every matrix as one self-contained interactive HTML page.

    Pointing at a matrix shows its name, its density and a picture of what is left, as on the published cards.
    """
    import altair  # wanted here only, and not everywhere where the rest is

    rows = matrices.assign(
        matrix=[f"layer {m.layer}, {m.kind}" for m in rows_of(matrices)],
        kept=[f"{m.kept_weights:,} of {m.weights:,} weights" for m in rows_of(matrices)],
        image=[_picture(shares[m.layer, m.kind]) for m in rows_of(matrices)],
    )
    chart = (
        altair.Chart(rows, title=altair.Title("Density of every encoder matrix", anchor="start",
                                              subtitle="Point at one to see what is left of it."))
        .mark_bar()
        .encode(
            x=altair.X("layer:O", title="layer"),
            xOffset=altair.XOffset("kind:N", sort=list(LINEAR_LAYERS)),
            y=altair.Y("density:Q", title="weights that are not zero / all", axis=altair.Axis(format="%")),
            color=altair.Color("kind:N", sort=list(LINEAR_LAYERS), title="matrix",
                               scale=altair.Scale(range=[BLUE, "#56B4E9", GREEN, "#F0E442", ORANGE, PURPLE])),
            tooltip=["matrix", "kept", altair.Tooltip("density:Q", format=".1%"), "image"],
        )
        .properties(width="container", height=300)
        .configure(background="transparent")
        .configure_legend(orient="bottom", columns=3)
    )  # fmt: skip
    return chart.to_html(inline=True, fullhtml=True).replace("<head>", f"<head>{CHART_HEAD}", 1)


def of_sparsity(tables: dict[str, pd.DataFrame], shares: dict[tuple[int, str], Tensor]) -> dict[str, Figure]:
    """The figures of `sparsity.tables` and `sparsity.block_fill`, by name."""
    return {
        "heads": heads(tables["heads"]),
        "density": density(tables["matrices"]),
        "patterns": patterns(shares),
        "parameters": parameters(tables["parameters"]),
    }
