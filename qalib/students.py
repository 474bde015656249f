"""Students: a model pruned further, then trained for a few steps on the answers, on its teacher, or on both.

Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): the teacher's probabilities, softened by a temperature,
say of every token how likely an end of the answer it is, where the reference marks a single one.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from qalib import masks, pruning, runtimes
from qalib.checkpoint import Checkpoint
from qalib.errors import InputError
from qalib.pruning import Pruner
from qalib.runtimes import compact
from qalib.squad import Question, QuestionSet
from qalib.trainset import ByLength, TrainingWindows
from qalib.windows import collate

WAYS = {"answers only": 0.0, "with the teacher": 0.9}  # share of the distillation in the loss


def halves(questions: QuestionSet, train: int) -> tuple[QuestionSet, QuestionSet]:
    """The first `train` questions, and those of the others whose contexts are not among theirs.

    Raises InputError if nothing is left for one of the two.
    """
    first = questions.first(train)
    seen = {q.context for q in first.questions}
    rest = tuple(q for q in questions.questions if q.context not in seen)
    if not rest:
        raise InputError(f"{train} questions to train on leave none with another context of {len(questions)}")
    return first, replace(questions, questions=rest, description=f"{questions.description}, contexts not trained on")


def first_token(checkpoint: Checkpoint, question: Question) -> tuple[list[str], Tensor, int]:
    """The tokens of a question's first window, the logits of the answer's first token, shape `(tokens,)`, and the place
    of the reference's (0, which is `[CLS]`, if it stands in another window)."""
    data = TrainingWindows([question], checkpoint.tokenizer)
    window = data.windows[0]
    with torch.no_grad():
        found = pruning.logits(checkpoint.model, **collate([window], checkpoint.tokenizer.pad_token_id))[0, 0]
    return checkpoint.tokenizer.convert_ids_to_tokens(window.ids.tolist()), found, int(data.positions[0][0])


def train(
    student: Checkpoint,
    teacher: Checkpoint,
    questions: QuestionSet,
    distilled: float,
    steps: int = 30,
    batch: int = 8,
    rate: float = 1e-4,
    temperature: float = 2.0,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Checkpoint, pd.Series]:
    """Train a copy of the student, zero blocks staying zero and embeddings as they are; returns it and the losses.

    The loss is `distilled` times the distillation plus the rest of 1 times the answers' cross-entropy.
    """
    torch.manual_seed(seed)
    small = compact.cut(copy.deepcopy(student.model), student.block)
    small.bert.embeddings.requires_grad_(False)
    pruner, known = Pruner(small, student.block), runtimes.build("compact", teacher)
    pruner.fix_as_is()
    data = TrainingWindows(questions.questions, student.tokenizer)
    optimizer = torch.optim.AdamW([p for p in pruner.parameters() if p.requires_grad], rate, weight_decay=0.0)
    order, losses = ByLength(data.lengths, batch, seed).first(steps * batch), []
    for step in tqdm(range(steps), unit="step", desc="training", disable=not progress):
        inputs = data.batch(order[step * batch : (step + 1) * batch])
        positions, _ = inputs.pop("positions"), inputs.pop("index")
        with torch.no_grad():
            target = pruning.logits(known, **inputs)
        logits = pruner(**inputs)
        loss = (1 - distilled) * pruning.answer_loss(logits, positions)
        loss = loss + distilled * pruning.distillation(logits, target, temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    grown = compact.grow(pruner.bake(), copy.deepcopy(student.model), student.block)
    return replace(student, model=grown.eval()), pd.Series(losses, name="loss")


def compare(
    student: Checkpoint,
    teacher: Checkpoint,
    questions: QuestionSet,
    test: QuestionSet,
    ways: Mapping[str, float] = WAYS,
    **options,
) -> pd.DataFrame:
    """Train the student in several ways (`train` with `options`) and ask all of them the questions of `test`.

    One row a model, teacher and untrained student first: model, f1 in percent, and divergence (`distance`).
    """
    models = {"teacher": teacher, "student, not trained": student}
    for way, share in ways.items():
        models[f"student, {way}"] = train(student, teacher, questions, share, **options)[0]
    rows = [(name, masks.f1(model, test), distance(model, teacher, test)) for name, model in models.items()]
    return pd.DataFrame(rows, columns=["model", "f1", "divergence"])


def distance(student: Checkpoint, teacher: Checkpoint, questions: QuestionSet) -> float:
    """Mean Kullback-Leibler divergence of the student's start and end from the teacher's, temperature 1, in nats."""
    data = TrainingWindows(questions.questions, student.tokenizer)
    models, total = [runtimes.build("compact", c) for c in (student, teacher)], 0.0
    for first in range(0, len(data), 32):
        inputs = data.batch(list(range(first, min(first + 32, len(data)))))
        inputs = {name: inputs[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        with torch.no_grad():
            mine, theirs = (pruning.logits(model, **inputs) for model in models)
        total += pruning.distillation(mine, theirs, 1.0).item() * 2 * len(mine)
    return total / (2 * len(data))
