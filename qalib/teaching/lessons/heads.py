"""Attention: what the heads look at, and what is lost without them.

A head's value bias reaches the output unchanged, since its attention weights sum to one. A head is cut by zeroing its
columns of the attention output and giving that constant to the output bias: what goes is what depends on the text.
After Michel et al. 2019 (arXiv 1905.10650), section 3, who cut heads one by one.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm
from torch import Tensor
from tqdm.auto import tqdm

from qalib import runtimes, sparsity
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.pruning.losses import span_logits
from qalib.qa import answering, batching, metric
from qalib.qa.squad import QuestionSet
from qalib.qa.windows import collate, windows
from qalib.report.plots.style import BLUE, GREY, INK
from qalib.teaching.lessons import masks
from qalib.teaching.lessons.boards import LINES, Board, board, large

Head = tuple[int, int]  # layer and number
FEW = 4  # questions that are enough to see that nothing moves


def attention_weights(checkpoint: Checkpoint, question: str, context: str) -> tuple[list[str], Tensor]:
    """The tokens of `[CLS] question [SEP] context [SEP]`, and how much each looks at each in every head.

    The weights have shape `(layers, heads, tokens, tokens)`; a row sums to one.
    """
    model = copy.deepcopy(checkpoint.model)
    model.set_attn_implementation("eager")  # the only one that gives the weights away
    inputs = checkpoint.tokenizer(question, context, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs, output_attentions=True).attentions
    return checkpoint.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]), torch.cat(found)


def ablate_heads(checkpoint: Checkpoint, heads: Iterable[Head]) -> Checkpoint:
    """A copy of the checkpoint without what the heads say of the text."""
    ablated = checkpoint.copy()
    for number, head in heads:
        layer = bert.layers(ablated.model)[number].attention
        columns = torch.zeros(layer.output.dense.in_features, dtype=torch.bool)
        bert.split_heads(columns, ablated.model.config.num_attention_heads)[head] = True
        constant = bert.constant_output(layer.output.dense, columns, layer.self.value.bias)
        layer.output.dense.bias.data += constant
        layer.output.dense.weight.data[:, columns] = 0
    return ablated


def ablate_one_by_one(checkpoint: Checkpoint, questions: QuestionSet, progress: bool = True) -> pd.DataFrame:
    """Cut each head by itself and ask the questions again.

    One row per head: layer, head, removable (see `bert.heads_removable`), divergence (`kl`, mean over the windows, of
    what is answered without it from what is answered with it), f1 in percent, change (of F1, in points), and low and
    high, the ends of the change's 95 % interval over questions drawn anew (bootstrap). Removable heads are asked the
    first FEW questions only, where nothing should move.
    """
    table, rows = sparsity.heads(checkpoint)[["layer", "head", "removable"]], []
    asked = {False: questions, True: questions.first(FEW)}
    whole = {few: ask(checkpoint, chosen) for few, chosen in asked.items()}
    base = whole[False][1].mean()
    for layer, head, free in tqdm(table.itertuples(index=False), total=len(table), unit="head", disable=not progress):
        logits, f1 = ask(ablate_heads(checkpoint, [(layer, head)]), asked[free])
        changes = f1 - whole[free][1]
        rows.append((divergence(logits, whole[free][0]), base + changes.mean(), changes.mean(), *bootstrap(changes)))
    return table.join(pd.DataFrame(rows, columns=["divergence", "f1", "change", "low", "high"]))


def kl(mine: Tensor, theirs: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of start and end from another's, in nats, mean of the two: `(batch, 2, length)`
    logits to `(batch,)`."""
    mine, theirs = mine.log_softmax(-1), theirs.log_softmax(-1)
    return (theirs.exp() * (theirs - mine)).sum(-1).mean(-1)


def bootstrap(changes: np.ndarray, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The ends of the 95 % interval of a mean over questions, which are drawn anew with replacement."""
    chosen = np.random.default_rng(seed).integers(len(changes), size=(draws, len(changes)))
    low, high = np.quantile(changes[chosen].mean(1), [0.025, 0.975])
    return float(low), float(high)


def spread(questions: QuestionSet, count: int) -> QuestionSet:
    """So many of the questions, at equal distances: from as many contexts as can be, where `first` has few."""
    chosen = np.linspace(0, len(questions), min(count, len(questions)), endpoint=False).astype(int)
    description = f"{questions.description}, {len(chosen)} of {len(questions)}"
    return replace(questions, questions=tuple(questions.questions[i] for i in chosen), description=description)


def ablate_in_order(
    checkpoint: Checkpoint, questions: QuestionSet, order: Sequence[Head], counts: Sequence[int], progress: bool = True
) -> pd.DataFrame:
    """Cut the first heads of an order, as many as `counts` says; one row per count: cut, left, f1 in percent."""
    config = checkpoint.model.config
    total, rows = config.num_hidden_layers * config.num_attention_heads, []
    for count in tqdm(counts, unit="model", desc="cutting heads", disable=not progress):
        rows.append((count, total - count, masks.f1(ablate_heads(checkpoint, order[:count]), questions)))
    return pd.DataFrame(rows, columns=["cut", "left", "f1"])


def divergence(mine: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """The mean over the windows of `kl`, from the logits that `ask` gives of two models."""
    return torch.cat([kl(*pair) for pair in zip(mine, theirs, strict=True)]).mean().item()


@torch.no_grad()
def ask(checkpoint: Checkpoint, questions: QuestionSet) -> tuple[list[Tensor], np.ndarray]:
    """One pass over the questions: the `span_logits` of each batch, and each question's F1 in percent."""
    model, tokenizer = runtimes.build(runtimes.best("cpu"), checkpoint), checkpoint.tokenizer
    asked = questions.questions
    cut = windows(tokenizer, [q.question for q in asked], [q.context for q in asked])
    logits, best = [], {}
    for batch in batching.batches(cut, batching.LENGTH_SORTED):
        logits.append(span_logits(model, **collate(batch, tokenizer.pad_token_id)))
        for window, span in zip(batch, answering.best_spans(logits[-1][:, 0], logits[-1][:, 1], batch), strict=True):
            best[window.index] = max(best.get(window.index, span), span, key=lambda s: s[0])
    texts = [question.context[slice(*best[index][1:])] for index, question in enumerate(asked)]
    f1 = [metric.best_over_references(metric.f1, t, q.answers or ("",)) for t, q in zip(texts, asked, strict=True)]
    return logits, 100 * np.array(f1)


@large
def plot_attention(tokens: Sequence[str], weights: Tensor, layer: int, head: int) -> Board:
    """What every token looks at in one head; `weights` has shape `(layers, heads, tokens, tokens)`."""
    seen = weights[layer, head].numpy()
    figure, axes = board(7)
    picture = axes.imshow(100 * seen, cmap="cividis", vmin=0, vmax=100)
    places = range(len(tokens))
    axes.set(xticks=places, yticks=places, ylabel="this token ...", xlabel="... looks at this one")
    axes.set_xticklabels(tokens, rotation=90, fontsize=11)
    axes.set_yticklabels(tokens, fontsize=11)
    marks = [place for place, token in enumerate(tokens) if token in ("[CLS]", "[SEP]")]
    shares = {
        "[CLS] and [SEP]": seen[:, marks].sum(1).mean(),
        "the word before": seen.trace(-1) / len(tokens),
        "the word after": seen.trace(1) / len(tokens),
        "the word itself": seen.trace() / len(tokens),
    } | {f"'{token}'": seen[:, place].mean() for place, token in enumerate(tokens) if place not in marks}
    most = max(shares, key=shares.__getitem__)
    title = f"Layer {layer}, head {head}: {100 * shares[most]:.0f} % of the attention is on {most}"
    figure.suptitle(title, fontweight="bold")
    figure.colorbar(picture, ax=axes, label="attention, % (a row sums to 100)")
    return figure


@large
def plot_heads(table: pd.DataFrame) -> Board:
    """How far the answers move without each head (`ablate_one_by_one`), and what that does to F1; crosses are free."""
    grid = table.pivot(index="layer", columns="head", values="divergence")
    figure, panels = board(2.4 + 0.6 * len(grid), 1, 2, width_ratios=(1.7, 1))
    least, most = table.divergence[~table.removable].min(), table.divergence.max()
    shades = LogNorm(max(least, 1e-6), max(most, 1e-5))
    picture = panels[0].imshow(grid.clip(lower=shades.vmin), cmap="cividis", norm=shades, aspect="auto")
    columns = (table[name].tolist() for name in ("layer", "head", "divergence", "removable"))
    for layer, head, divergence, removable in zip(*columns, strict=True):
        dark = shades(max(divergence, cast(float, shades.vmin))) < 0.6
        felt = f"{divergence:.2f}".removeprefix("0") if divergence >= 0.005 else "<.01"
        text = "x" if removable else felt
        panels[0].text(head, layer, text, ha="center", va="center", color="white" if dark else INK, fontsize=10)
    panels[0].set(xticks=range(grid.shape[1]), yticks=range(len(grid)), xlabel="head", ylabel="layer")
    figure.colorbar(picture, ax=panels[0], location="bottom", label="divergence of the answers, nats")
    dear = table[~table.removable].sort_values("divergence")
    around = dear.change - dear.low, dear.high - dear.change
    panels[1].errorbar(dear.change, range(len(dear)), xerr=around, fmt="o", markersize=4, color=BLUE, ecolor=GREY)
    panels[1].axvline(0, color=INK, linewidth=0.8)
    panels[1].set(xlabel="change of F1, points\n(95 % interval)", ylabel="heads, the most felt on top", yticks=[])
    sure = int(((dear.low > 0) | (dear.high < 0)).sum())
    free = f"{int(table.removable.sum())} of {len(table)} heads are free (x)"
    figure.suptitle(f"{free}; of the other {len(dear)} F1 is sure to change with {sure}", fontweight="bold")
    return figure


@large
def plot_orders(tables: Mapping[str, pd.DataFrame], start: float) -> Board:
    """F1 while more and more heads are cut (`ablate_in_order`), one line per order."""
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
