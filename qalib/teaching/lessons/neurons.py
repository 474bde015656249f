"""Neurons of the FFN: which can go, and the few weights that nothing works without.

A neuron is a row of FFN in and the column of FFN out that reads it. It is cut by zeroing that column; what it gives on
average can be left behind in the output's bias, as a constant. Outliers are after Kovaleva et al. 2021 (arXiv
2105.06990): a few weights of a few outputs, without which a BERT falls apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import BLUE, ORANGE
from qalib.teaching.lessons import heads, inputs
from qalib.teaching.lessons.boards import Board, board, large
from qalib.teaching.lessons.curves import plot_curves

WAYS = ("by lot", "by weights", "by activity", "by activity, mean left behind")


@dataclass(frozen=True)
class Activity:
    """What a layer's neurons give over some questions: `mean` and `size` (root mean square), shape `(neurons,)`."""

    mean: Tensor
    size: Tensor


def watch(checkpoint: Checkpoint, questions: QuestionSet) -> list[Activity]:
    """The activity of each layer's neurons over the tokens of the questions' windows, without padding."""
    layers = [layer.output.dense for layer in bert.layers(checkpoint.model)]
    sums = [torch.zeros(2, linear.in_features, dtype=torch.double) for linear in layers]
    counts = [0] * len(layers)

    def note(number: int, given: Tensor) -> None:
        sums[number] += torch.stack([given.double().sum(0), given.double().square().sum(0)])
        counts[number] += len(given)

    inputs.watch(checkpoint, questions, layers, note)
    means = [(total / count).float() for total, count in zip(sums, counts, strict=True)]
    return [Activity(mean, square.sqrt()) for mean, square in means]


def scores(checkpoint: Checkpoint, activity: Sequence[Activity], way: str) -> list[Tensor]:
    """A score for each neuron of each layer, shape `(neurons,)`: low ones go first. Neurons without weights have 0.

    By weights: norm of the row times norm of the column. By activity: root mean square of what the neuron gives (of how
    that differs from its mean, if the mean is left behind) times the norm of the column.
    """
    found = []
    for number, (layer, seen) in enumerate(zip(bert.layers(checkpoint.model), activity, strict=True)):
        column, row = (
            layer.output.dense.weight.detach().norm(dim=0),
            layer.intermediate.dense.weight.detach().norm(dim=1),
        )
        moves = (seen.size.square() - seen.mean.square()).clamp(min=0).sqrt()
        lot = torch.rand(len(row), generator=torch.Generator().manual_seed(number))
        factors: dict[str, Tensor] = dict(zip(WAYS, (lot / column.clamp(min=1e-9), row, seen.size, moves), strict=True))
        found.append(column * factors[way])
    return found


def cut(checkpoint: Checkpoint, chosen: Sequence[Tensor], left_behind: Sequence[Tensor] | None = None) -> Checkpoint:
    """A copy without the neurons that are `chosen`, a bool mask of shape `(neurons,)` a layer.

    Where `left_behind` has what they give on average, the output's bias takes it over.
    """
    made = checkpoint.copy()
    for number, (layer, gone) in enumerate(zip(bert.layers(made.model), chosen, strict=True)):
        if left_behind is not None:
            layer.output.dense.bias.data += bert.constant_output(layer.output.dense, gone, left_behind[number])
        layer.output.dense.weight.data[:, gone] = 0
    return made


def compare(
    checkpoint: Checkpoint,
    activity: Sequence[Activity],
    questions: QuestionSet,
    fractions: Sequence[float],
    progress=True,
) -> pd.DataFrame:
    """Cut a fraction of all neurons that are not free, those of the lowest scores in the whole model, in four WAYS.

    A row a way and fraction: way, cut (the fraction), divergence (nats), f1 (percent)."""
    whole, rows = heads.ask(checkpoint, questions)[0], []
    means = [seen.mean for seen in activity]
    free = torch.cat([bert.neurons_removable(layer) for layer in bert.layers(checkpoint.model)])
    plan = [(way, fraction) for way in WAYS for fraction in sorted(fractions)]
    for way, fraction in tqdm(plan, unit="model", desc="cutting neurons", disable=not progress):
        ranked = torch.cat(scores(checkpoint, activity, way)).masked_fill(free, torch.inf)
        gone = torch.zeros_like(free)
        gone[ranked.argsort()[: int(fraction * (~free).sum())]] = True
        parts = gone.split([len(mean) for mean in means])
        logits, f1 = heads.ask(cut(checkpoint, parts, means if way == WAYS[-1] else None), questions)
        rows.append((way, fraction, heads.divergence(logits, whole), f1.mean()))
    return pd.DataFrame(rows, columns=["way", "cut", "divergence", "f1"])


def outliers(checkpoint: Checkpoint, count: int) -> pd.DataFrame:
    """The `count` weights of FFN out that are farthest out, in standard deviations of their matrix's weights.

    A row a weight: layer, output (its row), neuron (its column), weight, sigmas."""
    rows = []
    for number, layer in enumerate(bert.layers(checkpoint.model)):
        weight = layer.output.dense.weight.detach()
        sigmas = weight / weight[weight != 0].std()
        for place in sigmas.abs().flatten().topk(count).indices.tolist():
            output, neuron = divmod(place, weight.shape[1])
            rows.append((number, output, neuron, weight[output, neuron].item(), sigmas[output, neuron].item()))
    table = pd.DataFrame(rows, columns=["layer", "output", "neuron", "weight", "sigmas"])
    return table.sort_values("sigmas", key=abs, ascending=False).head(count).reset_index(drop=True)


def behind(checkpoint: Checkpoint, activity: Sequence[Activity], count: int) -> pd.DataFrame:
    """The `outliers` with what their neurons give: mean, size (root mean square), the usual size (of their layer's
    neurons that are not free, the median), and moves (how far they move their output about its mean)."""
    table = outliers(checkpoint, count)
    usual = [seen.size[~bert.neurons_removable(layer)].median().item()
             for layer, seen in zip(bert.layers(checkpoint.model), activity, strict=True)]  # fmt: skip
    places = list(zip(table.layer.tolist(), table.neuron.tolist(), strict=True))
    table["mean"] = [activity[layer].mean[neuron].item() for layer, neuron in places]
    table["size"] = [activity[layer].size[neuron].item() for layer, neuron in places]
    table["usual"] = [usual[layer] for layer in table.layer]
    return table.assign(moves=table.weight.abs() * (table["size"] ** 2 - table["mean"] ** 2).clip(lower=0) ** 0.5)


def without(checkpoint: Checkpoint, places: pd.DataFrame) -> Checkpoint:
    """A copy without single weights of FFN out, a row each: layer, output, neuron."""
    made = checkpoint.copy()
    for layer, output, neuron in places[["layer", "output", "neuron"]].to_numpy().tolist():
        bert.layers(made.model)[layer].output.dense.weight.data[output, neuron] = 0
    return made


def by_lot(checkpoint: Checkpoint, count: int, seed: int = 0) -> pd.DataFrame:
    """`count` weights of FFN out that are not zero, drawn by lot; columns layer, output, neuron."""
    found = [layer.output.dense.weight.detach().nonzero() for layer in bert.layers(checkpoint.model)]
    places = torch.cat([torch.cat([torch.full((len(f), 1), n), f], 1) for n, f in enumerate(found)])
    drawn = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]]
    return pd.DataFrame(drawn.numpy(), columns=["layer", "output", "neuron"])


def compare_outliers(checkpoint: Checkpoint, questions: QuestionSet, counts: Sequence[int], lots: int) -> pd.DataFrame:
    """Ask without the first outliers, as many as `counts` says, and without `lots` weights drawn by lot.

    A row a model: gone (what), weights (how many), divergence (nats), f1 (percent)."""
    whole, start = heads.ask(checkpoint, questions)
    rows, table = [("nothing", 0, 0.0, start.mean())], outliers(checkpoint, max(counts))
    models = [("outliers", n, table.head(n)) for n in counts] + [("by lot", lots, by_lot(checkpoint, lots))]
    for gone, count, places in models:
        logits, f1 = heads.ask(without(checkpoint, places), questions)
        rows.append((gone, count, heads.divergence(logits, whole), f1.mean()))
    return pd.DataFrame(rows, columns=["gone", "weights", "divergence", "f1"])


def plot_cut(table: pd.DataFrame, start: float) -> Board:
    """Divergence and F1 over the share of neurons that is cut (`compare`), a line for each of the WAYS."""
    shares = sorted(table.cut.unique())
    middle = shares[len(shares) // 2]
    said = ", ".join(f"{row.f1:.0f} {row.way}" for row in table[table.cut == middle].itertuples())
    shown = table.assign(cut=100 * table.cut)
    title = f"F1 without {100 * middle:.0f} % of the neurons:\n{said}"
    return plot_curves(shown, "way", "cut", start, "neurons cut, % of those that are not free", title)


@large
def plot_outliers(table: pd.DataFrame, everything: int) -> Board:
    """How far the answers move without a few outliers, and without many weights drawn by lot (`compare_outliers`), and
    what F1 is then; `everything` is how many weights the encoder has left."""
    start, shown = table.f1[table.gone == "nothing"].iloc[0], table[table.gone != "nothing"]
    figure, axes = board(1.9 + 0.55 * len(shown))
    for place, row in enumerate(shown.itertuples()):
        outlier = row.gone == "outliers"
        axes.plot([row.divergence], [place], "o" if outlier else "D", color=ORANGE if outlier else BLUE, markersize=13)
        axes.annotate(f"F1 {row.f1:.0f}", (row.divergence, place), (14, -5), textcoords="offset points", fontsize=12)
    names = {"outliers": "the largest {:,}", "by lot": "{:,} by lot"}
    labels = [names[gone].format(weights) for gone, weights in zip(shown.gone, shown.weights, strict=True)]
    axes.set(yticks=range(len(shown)), yticklabels=labels, ylim=(len(shown) - 0.5, -0.5), xscale="log")
    axes.set_xlabel(f"divergence of the answers, nats (F1 of the whole: {start:.0f})")
    axes.margins(x=0.15)
    worst, lot = shown[shown.gone == "outliers"].iloc[-1], shown[shown.gone == "by lot"].iloc[0]
    axes.set_title(f"Without {worst.weights} of {everything:,} weights answers move {worst.divergence:.2g} nats,\n"
                   f"without {lot.weights:,} others {lot.divergence:.1g}; F1 goes from {start:.0f} to {worst.f1:.0f}",
                   fontsize=13)  # fmt: skip
    return figure
