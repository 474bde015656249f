"""Int8 on top of blocks: what is left of the weights, in fewer bits.

A weight becomes a whole number times a *scale*: symmetric and linear, as in Q8BERT (Zafrir et al. 2019, arXiv
1910.06188). The scale is the group's largest weight over the largest number, 127 in 8 bits, so that an outlier makes it
coarse for its whole group: a matrix, a row or a block (LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339, section 3,
on rows, and on outliers of the activations).

>>> rounded(torch.tensor([[0.3, 1.0, -7.0], [0.3, 0.9, -0.7]]), 4, "row")  # from -7 to 7 times the scale
tensor([[ 0.0000,  1.0000, -7.0000],
        [ 0.2571,  0.9000, -0.7714]])
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from qalib.model import bert, blocks
from qalib.model.blocks import Block
from qalib.model.checkpoint import Checkpoint
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import BLUE, ORANGE
from qalib.teaching.lessons import heads
from qalib.teaching.lessons.boards import Board, board, large
from qalib.teaching.lessons.curves import plot_curves

GROUPS = ("matrix", "row", "block")  # that have a scale each


def rounded(weight: Tensor, bits: int, group: str, block: Block = (32, 32)) -> Tensor:
    """A weight, shape `(rows, columns)`, as what is left of it in so many bits, with a scale for each `group`."""
    largest = 2 ** (bits - 1) - 1
    tile = {"matrix": tuple(weight.shape), "row": (1, weight.shape[1]), "block": block}[group]
    tiles = blocks.split(weight, tile)
    scales = tiles.abs().amax((-1, -2), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / largest
    return blocks.join((tiles / scales).round() * scales)


def quantized(checkpoint: Checkpoint, bits: int, group: str) -> Checkpoint:
    """A copy whose encoder matrices are `rounded`; embeddings, biases and activations stay as they are."""
    made = checkpoint.copy()
    for matrix in bert.matrices(made.model):
        matrix.linear.weight.data = rounded(matrix.linear.weight.data, bits, group, checkpoint.block)
    return made


def errors(checkpoint: Checkpoint, bits: int) -> pd.DataFrame:
    """What rounding does to each matrix. A row a matrix: matrix, outlier (its largest weight in standard deviations),
    and for each of the GROUPS the error (root mean square, in % of that of the weights), and lost (the share of the
    weights left that become zero, in %)."""
    rows = []
    for matrix in bert.matrices(checkpoint.model):
        weight = matrix.linear.weight.detach()
        left = weight != 0
        sizes = weight[left]
        row = {"matrix": f"layer {matrix.layer}, {matrix.kind}", "outlier": (sizes.abs().max() / sizes.std()).item()}
        for group in GROUPS:
            made = rounded(weight, bits, group, checkpoint.block)[left]
            row[f"{group}_error"] = 100 * ((made - sizes).square().mean() / sizes.square().mean()).sqrt().item()
            row[f"{group}_lost"] = 100 * (made == 0).double().mean().item()
        rows.append(row)
    return pd.DataFrame(rows)


def compare(checkpoint: Checkpoint, questions: QuestionSet, bits: Sequence[int], progress: bool = True) -> pd.DataFrame:
    """Ask copies of the checkpoint in fewer bits. A row a group and number of bits: group, bits, divergence (from the
    answers of the whole, in nats), f1 in percent."""
    plan = [(group, count) for group in GROUPS for count in sorted(bits, reverse=True)]
    whole, rows = heads.ask(checkpoint, questions)[0], []
    for group, count in tqdm(plan, unit="model", desc="rounding and asking", disable=not progress):
        logits, f1 = heads.ask(quantized(checkpoint, count, group), questions)
        rows.append((group, count, heads.divergence(logits, whole), f1.mean()))
    return pd.DataFrame(rows, columns=["group", "bits", "divergence", "f1"])


def sizes(checkpoint: Checkpoint) -> pd.DataFrame:
    """What the encoder matrices take in several forms, in MB: weights, scales (4 bytes each), mask (a bit a block)."""
    found = [matrix.linear.weight.detach() for matrix in bert.matrices(checkpoint.model)]
    everything, rows = sum(weight.numel() for weight in found), sum(len(weight) for weight in found)
    kept = sum(int(blocks.mask(weight, checkpoint.block).sum()) for weight in found)
    height, width = checkpoint.block
    tiles = everything // (height * width)
    forms = {
        "dense, fp32": (4 * everything, 0, 0),
        "dense, int8, a scale a row": (everything, 4 * rows, 0),
        "blocks, fp32": (4 * kept * height * width, 0, tiles / 8),
        "blocks, fp16": (2 * kept * height * width, 0, tiles / 8),
        "blocks, int8, a scale a row": (kept * height * width, 4 * rows, tiles / 8),
        "blocks, int8, a scale a block": (kept * height * width, 4 * kept, tiles / 8),
    }
    table = pd.DataFrame(forms, index=["weights", "scales", "mask"]).T / 1e6
    return table.assign(MB=table.sum(axis=1), times_smaller=table.sum(axis=1).iloc[0] / table.sum(axis=1))


@large
def plot_rounded(weight: Tensor, name: str, bits: int) -> Board:
    """Which whole numbers the weights of a matrix become, with one scale and with one a row (middle part)."""
    largest = 2 ** (bits - 1) - 1
    figure, panels = board(4, 1, 2, sharey=True)
    left, shown = weight[weight != 0], min(largest, 20)
    for axes, group, colour in zip(panels, ("matrix", "row"), (ORANGE, BLUE), strict=True):
        tile = (weight.shape[0] if group == "matrix" else 1, weight.shape[1])
        tiles = blocks.split(weight, tile)
        numbers = blocks.join((tiles / tiles.abs().amax((-1, -2), keepdim=True).clamp_min(1e-38) * largest).round())
        numbers = numbers[weight != 0]
        counts = [100 * (numbers == n).double().mean().item() for n in range(-shown, shown + 1)]
        axes.bar(range(-shown, shown + 1), counts, 1, color=colour)
        used, zero = len(numbers.unique()), 100 * (numbers == 0).double().mean()
        axes.set(xlabel=f"whole number, of {-largest} to {largest}")
        axes.set_title(f"a scale a {group}: {used} numbers used,\n{zero:.0f} % of the weights become 0", fontsize=13)
    panels[0].set_ylabel("weights, %")
    outlier = (left.abs().max() / left.std()).item()
    figure.suptitle(f"{name}, {bits} bits: the largest weight is at {outlier:.0f} sigma", fontweight="bold")
    return figure


def plot_bits(table: pd.DataFrame, start: float) -> Board:
    """Divergence and F1 over bits (`compare`), a line for each group that has a scale."""
    counts = sorted(table.bits.unique())
    few = counts[len(counts) // 2 - 1]
    said = ", ".join(f"{row.f1:.0f} with a scale a {row.group}" for row in table[table.bits == few].itertuples())
    named = table.assign(group="a scale a " + table.group)
    return plot_curves(named, "group", "bits", start, "bits a weight", f"F1 in {few} bits: {said}", descending=True)
