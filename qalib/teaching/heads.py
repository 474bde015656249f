"""Attention: what the heads look at, and what is lost without them.

A head's value bias reaches the output unchanged, since its attention weights sum to one. A head is cut by zeroing its
columns of the attention output and giving that constant to the output bias: what goes is what depends on the text.
After Michel et al. 2019 (arXiv 1905.10650), section 3, who cut heads one by one.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from qalib import sparsity
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.pruning.losses import span_logits
from qalib.qa.squad import QuestionSet
from qalib.qa.windows import collate, windows
from qalib.report.plots.style import INK
from qalib.teaching import masks
from qalib.teaching.common import LINES, Board, board

Head = tuple[int, int]  # layer and number


SAME = 1e-4  # largest difference of a logit at which the answers are not asked for again


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
    ablated = replace(checkpoint, model=copy.deepcopy(checkpoint.model))
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

    One row a head: layer, head, removable (see `bert.heads_removable`), logit_difference (the largest, over the
    first question's windows), f1 in percent, and change (of F1, in points). Heads without which no logit differs by
    more than SAME keep the F1 of the whole model.
    """
    table, base = sparsity.heads(checkpoint)[["layer", "head", "removable"]], masks.f1(checkpoint, questions)
    inputs = _inputs(checkpoint, questions)
    expected, rows = _logits(checkpoint, inputs), []
    for layer, head, _ in tqdm(table.itertuples(index=False), total=len(table), unit="head", disable=not progress):
        ablated = ablate_heads(checkpoint, [(layer, head)])
        difference = (_logits(ablated, inputs) - expected).abs().max().item()
        rows.append((difference, base if difference <= SAME else masks.f1(ablated, questions)))
    found = pd.DataFrame(rows, columns=["logit_difference", "f1"])
    return table.join(found).assign(change=found.f1 - base)


def ablate_in_order(
    checkpoint: Checkpoint, questions: QuestionSet, order: Sequence[Head], counts: Sequence[int], progress: bool = True
) -> pd.DataFrame:
    """Cut the first heads of an order, as many as `counts` says; one row a count: cut, left, f1 in percent."""
    config = checkpoint.model.config
    total, rows = config.num_hidden_layers * config.num_attention_heads, []
    for count in tqdm(counts, unit="model", desc="cutting heads", disable=not progress):
        rows.append((count, total - count, masks.f1(ablate_heads(checkpoint, order[:count]), questions)))
    return pd.DataFrame(rows, columns=["cut", "left", "f1"])


def _inputs(checkpoint: Checkpoint, questions: QuestionSet) -> dict[str, Tensor]:
    first = questions.questions[0]
    return collate(windows(checkpoint.tokenizer, [first.question], [first.context]), checkpoint.tokenizer.pad_token_id)


@torch.no_grad()
def _logits(checkpoint: Checkpoint, inputs: dict[str, Tensor]) -> Tensor:
    return span_logits(checkpoint.model, **inputs)


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
    most = max(shares, key=shares.get)
    axes.set_title(f"Layer {layer}, head {head}: {100 * shares[most]:.0f} % of the attention is on {most}")
    figure.colorbar(picture, ax=axes, label="attention, % (a row sums to 100)")
    return figure


def plot_heads(table: pd.DataFrame) -> Board:
    """What F1 does without each head (`ablate_one_by_one`); crosses mark heads that can go without loss."""
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


def plot_orders(tables: Mapping[str, pd.DataFrame], start: float) -> Board:
    """F1 while more and more heads are cut (`ablate_in_order`), one line an order."""
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
