"""Students: a model pruned further, then trained for a few steps on the answers, on its teacher, or on both.

Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): the teacher's probabilities, softened by a temperature,
say of every token how likely an end of the answer it is, where the reference marks a single one.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from qalib import runtimes
from qalib.model.checkpoint import Checkpoint
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import span_logits, teacher_logits, training_losses
from qalib.pruning.pruner import Pruner
from qalib.pruning.sampler import LengthGroupedSampler
from qalib.qa.squad import Question, QuestionSet
from qalib.qa.windows import collate
from qalib.report.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE
from qalib.runtimes import compact
from qalib.teaching.lessons import heads
from qalib.teaching.lessons.boards import Board, board, large
from qalib.utils.errors import InputError

ALPHAS = {"answers only": 0.0, "with the teacher": 0.9}  # share of distillation in the loss


def split_by_context(questions: QuestionSet, train: int) -> tuple[QuestionSet, QuestionSet]:
    """The first `train` questions, and those of the others whose contexts are not among theirs.

    Raises InputError if nothing is left for one of the two.
    """
    first = questions.first(train)
    seen = {q.context for q in first.questions}
    rest = tuple(q for q in questions.questions if q.context not in seen)
    if not rest:
        raise InputError(f"{train} questions to train on leave none with another context of {len(questions)}")
    return first, replace(questions, questions=rest, description=f"{questions.description}, contexts not trained on")


def start_logits(checkpoint: Checkpoint, question: Question) -> tuple[list[str], Tensor, int]:
    """The tokens of a question's first window, the logits of the answer's first token, shape `(tokens,)`, and the place
    of the reference's (0, which is `[CLS]`, if it stands in another window)."""
    data = SquadDataset([question], checkpoint.tokenizer)
    window = data.windows[0]
    with torch.no_grad():
        found = span_logits(checkpoint.model, **collate([window], checkpoint.tokenizer.pad_token_id))[0, 0]
    return checkpoint.tokenizer.convert_ids_to_tokens(window.ids.tolist()), found, int(data.positions[0][0])


def train(
    student: Checkpoint,
    teacher: Checkpoint,
    questions: QuestionSet,
    alpha: float,
    steps: int = 30,
    batch_size: int = 8,
    lr: float = 1e-4,
    temperature: float = 2.0,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Checkpoint, pd.Series]:
    """Train a copy of the student, zero blocks staying zero and embeddings as they are; returns it and the losses.

    `alpha` is the share of distillation in the loss, from 0 to 1; the rest is cross-entropy with the answers.
    """
    torch.manual_seed(seed)
    small = compact.shrink(copy.deepcopy(student.model), student.block)
    small.bert.embeddings.requires_grad_(False)
    pruner = Pruner(small, student.block)
    knowing = partial(teacher_logits, runtimes.build(runtimes.best("cpu"), teacher))
    pruner.fix_nonzero()
    data, losses = SquadDataset(questions.questions, student.tokenizer), []
    optimizer = torch.optim.AdamW([p for p in pruner.parameters() if p.requires_grad], lr, weight_decay=0.0)
    batches = LengthGroupedSampler(data.lengths, batch_size, seed).batches(steps)
    for indices in tqdm(batches, total=steps, unit="step", desc="training", disable=not progress):
        loss = training_losses(pruner, knowing, data.collate(indices), alpha, temperature)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    grown = compact.expand(pruner.apply_masks(), copy.deepcopy(student.model), student.block)
    return replace(student, model=grown.eval()), pd.Series(losses, name="loss")


def compare(
    student: Checkpoint,
    teacher: Checkpoint,
    questions: QuestionSet,
    test: QuestionSet,
    alphas: Mapping[str, float] = ALPHAS,
    seeds: int = 1,
    **options,
) -> pd.DataFrame:
    """Train the student in several ways (`train` with `options`) and ask all of them the questions of `test`.

    One row per model and seed, teacher and untrained student first: model, seed, f1 in percent, and divergence from the
    teacher (`heads.kl`, in nats): the median over the questions' windows, as a divergence has no upper end, so that a
    mean would be that of the few where a student is sure of another answer. The seeds 0, 1, ... give the order of the
    questions.
    """
    models = {("teacher", 0): teacher, ("student, not trained", 0): student}
    for way, alpha in alphas.items():
        for seed in range(seeds):
            models[f"student, {way}", seed] = train(student, teacher, questions, alpha, seed=seed, **options)[0]
    taught, rows = heads.ask(teacher, test)[0], []
    for name, model in models.items():
        logits, f1 = heads.ask(model, test)
        off = torch.cat([heads.kl(*pair) for pair in zip(logits, taught, strict=True)])
        rows.append((*name, f1.mean(), float(np.median(off))))
    return pd.DataFrame(rows, columns=["model", "seed", "f1", "divergence"])


@large
def plot_soft_targets(teacher: Checkpoint, question: Question, temperature: float, count: int = 8) -> Board:
    """The likeliest `count` tokens that the answer begins with, as the teacher says at a temperature, beside the
    reference (in the question's first window)."""
    tokens, logits, answer = start_logits(teacher, question)
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


@large
def plot_students(table: pd.DataFrame) -> Board:
    """How the students of `compare` answer, and how far they are from their teacher: a dot a seed, a line the mean."""
    models = list(dict.fromkeys(table.model))
    figure, panels = board(1.8 + 0.6 * len(models), 1, 2, sharey=True)
    for axes, column, label in (
        (panels[0], "f1", "F1, %"),
        (panels[1], "divergence", "distance from the teacher, nats (median)"),
    ):
        for place, (model, colour) in enumerate(zip(models, (INK, GREY, ORANGE, BLUE, GREEN, PURPLE), strict=False)):
            found = table[column][table.model == model]
            axes.scatter(found, [place] * len(found), s=80, color=colour, edgecolor=INK, zorder=3, clip_on=False)
            axes.plot([found.mean()] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=3)
        axes.set(xlabel=label, xlim=(0, 1.15 * max(table[column].max(), 1e-9)))
    panels[0].set(yticks=range(len(models)), yticklabels=models, ylim=(len(models) - 0.5, -0.5))
    said = []
    for name, f1 in list(table.groupby("model", sort=False).f1)[1:]:
        between = f" ({f1.min():.0f} to {f1.max():.0f})" if len(f1) > 1 else ""
        said.append(f"{str(name).removeprefix('student, ')} {f1.mean():.0f}{between}")
    figure.suptitle(f"F1 of the student: {', '.join(said)}", fontweight="bold", fontsize=14)
    return figure
