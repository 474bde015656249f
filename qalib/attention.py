"""Attention: what the heads look at, and what is lost without them.

A head's value bias reaches the output unchanged, since its attention weights sum to one. A head is cut by zeroing its
columns of the attention output and giving that constant to the output bias: what goes is what depends on the text.
After Michel et al. 2019 (arXiv 1905.10650), section 3, who cut heads one by one.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from qalib import encoder, masks, pruning, sparsity
from qalib.checkpoint import Checkpoint
from qalib.squad import QuestionSet
from qalib.windows import collate, windows

Head = tuple[int, int]  # layer and number
SAME = 1e-4  # largest difference of a logit at which the answers are not asked for again


def weights(checkpoint: Checkpoint, question: str, context: str) -> tuple[list[str], Tensor]:
    """The tokens of `[CLS] question [SEP] context [SEP]`, and how much each looks at each in every head.

    The weights have shape `(layers, heads, tokens, tokens)`; a row sums to one.
    """
    model = copy.deepcopy(checkpoint.model)
    model.set_attn_implementation("eager")  # the only one that gives the weights away
    inputs = checkpoint.tokenizer(question, context, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs, output_attentions=True).attentions
    return checkpoint.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]), torch.cat(found)


def without(checkpoint: Checkpoint, heads: Iterable[Head]) -> Checkpoint:
    """A copy of the checkpoint with the heads cut."""
    cut = replace(checkpoint, model=copy.deepcopy(checkpoint.model))
    for number, head in heads:
        layer = encoder.layers(cut.model)[number].attention
        columns = torch.zeros(layer.output.dense.in_features, dtype=torch.bool)
        encoder.by_head(columns, cut.model.config.num_attention_heads)[head] = True
        constant = encoder.constant_output(layer.output.dense, columns, layer.self.value.bias)
        layer.output.dense.bias.data += constant
        layer.output.dense.weight.data[:, columns] = 0
    return cut


def one_by_one(checkpoint: Checkpoint, questions: QuestionSet, progress: bool = True) -> pd.DataFrame:
    """Cut each head by itself and ask the questions again.

    One row a head: layer, head, removable (see `encoder.heads_removable`), logit_difference (the largest, over the
    first question's windows), f1 in percent, and change (of F1, in points). Heads without which no logit differs by
    more than SAME keep the F1 of the whole model.
    """
    table, base = sparsity.heads(checkpoint)[["layer", "head", "removable"]], masks.f1(checkpoint, questions)
    inputs = _inputs(checkpoint, questions)
    expected, rows = _logits(checkpoint, inputs), []
    for layer, head, _ in tqdm(table.itertuples(index=False), total=len(table), unit="head", disable=not progress):
        cut = without(checkpoint, [(layer, head)])
        difference = (_logits(cut, inputs) - expected).abs().max().item()
        rows.append((difference, base if difference <= SAME else masks.f1(cut, questions)))
    found = pd.DataFrame(rows, columns=["logit_difference", "f1"])
    return table.join(found).assign(change=found.f1 - base)


def in_order(
    checkpoint: Checkpoint, questions: QuestionSet, order: Sequence[Head], counts: Sequence[int], progress: bool = True
) -> pd.DataFrame:
    """Cut the first heads of an order, as many as `counts` says; one row a count: cut, left, f1 in percent."""
    config = checkpoint.model.config
    total, rows = config.num_hidden_layers * config.num_attention_heads, []
    for count in tqdm(counts, unit="model", desc="cutting heads", disable=not progress):
        rows.append((count, total - count, masks.f1(without(checkpoint, order[:count]), questions)))
    return pd.DataFrame(rows, columns=["cut", "left", "f1"])


def _inputs(checkpoint: Checkpoint, questions: QuestionSet) -> dict[str, Tensor]:
    first = questions.questions[0]
    return collate(windows(checkpoint.tokenizer, [first.question], [first.context]), checkpoint.tokenizer.pad_token_id)


@torch.no_grad()
def _logits(checkpoint: Checkpoint, inputs: dict[str, Tensor]) -> Tensor:
    return pruning.logits(checkpoint.model, **inputs)
