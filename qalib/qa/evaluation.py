"""Evaluation: answer a whole question set and score the answers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from qalib import runtimes
from qalib.model import bert, checkpoint, description
from qalib.model.checkpoint import Checkpoint
from qalib.qa import metric, metric_v2, squad
from qalib.qa.answering import Answers, answer
from qalib.qa.batching import LENGTH_SORTED, BatchingConfig
from qalib.qa.squad import Question, QuestionSet
from qalib.qa.windows import MAX_LENGTH
from qalib.utils import distributed, machine
from qalib.utils.errors import InputError
from qalib.utils.output import ShownInNotebooks
from qalib.utils.quantity import measure

QUESTION_WORDS = ("what", "who", "when", "where", "which", "how", "why")
METRICS = ("exact_match", "f1")


@dataclass(frozen=True, repr=False)
class Evaluation(ShownInNotebooks):
    """A scored run: the metric, the answers with their times, and the questions that were answered."""

    score: metric.Score
    answers: Answers
    question_set: QuestionSet

    def __repr__(self) -> str:
        score = self.score
        measured = "not scored" if score.f1 is None else f"exact match {score.exact_match:.2f} %, F1 {score.f1:.2f} %"
        return f"Evaluation on {self.question_set.description}\n  {measured}\n  in {self.answers.seconds:.1f} s"

    @property
    def comparable_score(self) -> metric.Score:
        """The score for comparison with published ones: EM and F1 are None unless it covers all of SQuAD v1.1 dev."""
        asked = self.question_set
        whole = asked.version == squad.V1 and asked.is_all_of("validation")
        return self.score if whole else self.score.withheld()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row per question (`per_question`), built on first use: with many questions it takes memory."""
        return per_question(self.question_set.questions, self.answers.texts, self.question_set.version)


@dataclass(frozen=True)
class NoAnswers:
    """How questions without an answer were treated, and whether the model was trained on any."""

    null_score_diff_threshold: float = measure(
        "1",
        "a question gets the empty answer if its null score (sum of the start and end logits of [CLS], the smallest "
        "over its windows) exceeds the best answer's score by more than this",
    )
    no_answer_training: str = measure("text", "training on questions without an answer, as far as stated")


def evaluate(
    model: nn.Module | Checkpoint | str | Path = "bundled",
    tokenizer=None,
    questions: QuestionSet | str = "sample",
    batching: BatchingConfig = LENGTH_SORTED,
    progress: bool = True,
    scored: bool = True,
    null_score_diff_threshold: float = 0.0,
) -> Evaluation:
    """Answer a question set and score the answers; if not `scored` (random weights), the score holds counts only.

    `model` is a torch module, which needs its `tokenizer`, or a checkpoint or its name, which has one and is run under
    the device's best runtime. `questions` may be a name or file, as for `squad.load`.
    In v2.0 a question whose null score difference exceeds the threshold gets no answer, and the score is a
    `metric_v2.Score` whose best thresholds are null score differences. Raises InputError for a file that cannot be
    used, ValueError for a module without a tokenizer.

    >>> evaluate("bundled", questions=squad.load("sample").first(3), progress=False).score.exact_match
    100.0
    """
    if isinstance(questions, str):
        questions = squad.load(questions)
    if isinstance(model, str | Path):
        model = checkpoint.load(model)
    if isinstance(model, Checkpoint):
        scored = scored and not model.unscored
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        device = machine.device()
        runtime = runtimes.best(device)
        model = runtimes.build(runtime, model, device, runtimes.choose_dtype("auto", runtime, device)[0])
    if tokenizer is None:
        raise ValueError("a model that is not a checkpoint needs a tokenizer: evaluate(model, tokenizer, ...)")
    answers = answer(model, tokenizer, questions.questions, batching, progress)
    return score_answers(answers, questions, scored, null_score_diff_threshold)


def score_answers(
    answers: Answers, questions: QuestionSet, scored: bool = True, null_score_diff_threshold: float = 0.0
) -> Evaluation:
    """Score the answers to a question set; see `evaluate`."""
    if questions.version == squad.V2:
        answers = answers.with_no_answers(null_score_diff_threshold)
        score = metric_v2.score(questions.questions, answers.texts, answers.null_score_diffs, na_prob_thresh=math.inf)
    else:
        score = metric.score(questions.questions, answers.texts)
    return Evaluation(score if scored else score.withheld(), answers, questions)


def no_answers(loaded: checkpoint.Checkpoint, null_score_diff_threshold: float = 0.0) -> NoAnswers:
    """What is stated beside a model's v2.0 figures, from what its checkpoint says about its training data."""
    record = description.training_record(loaded)
    data, version = record.train_data, record.train_data_version or squad.V1
    if not data:
        training = "not stated; if on SQuAD v1.1 alone, the model has seen no question without an answer"
    elif version == squad.V2:
        training = f"yes, on {data} (SQuAD v2.0)"
    else:  # windows of a long context that lack the answer are trained to point at [CLS]
        seen = "at most the model has seen windows that lack theirs"
        training = f"none: in {data} (SQuAD v{version}) every question has an answer; {seen}"
    return NoAnswers(null_score_diff_threshold, training)


def load_and_evaluate(
    model: str,
    data: str = "sample",
    runtime: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    questions: int | None = None,
    null_score_diff_threshold: float | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Load, answer and score: what was run on what, and the result. For the arguments see `qalib evaluate --help`."""
    place = machine.device(device)
    name = runtime or runtimes.best(place)
    with distributed.joined(cpu=place == "cpu"):  # each takes its GPU
        return _load_and_evaluate(model, data, name, dtype, place, questions, null_score_diff_threshold)


def _load_and_evaluate(
    model: str,
    data: str,
    name: str,
    dtype: str,
    place: str,
    questions: int | None,
    null_score_diff_threshold: float | None,
) -> tuple[dict[str, Any], Evaluation]:
    dtype, dtype_remark = distributed.of_main_process(lambda: runtimes.choose_dtype(dtype, name, place))
    asked = squad.load(data).first(questions)
    if null_score_diff_threshold is not None and asked.version != squad.V2:
        raise InputError(f"{data}: is SQuAD v1.1, where every question has an answer; null scores are for v2.0")
    threshold = 0.0 if null_score_diff_threshold is None else null_score_diff_threshold
    if not math.isfinite(threshold):
        raise InputError(f"--null-score-diff-threshold {threshold}: expected a finite number")
    loaded = checkpoint.load(model)
    if (places := bert.max_tokens(loaded.model)) is not None and places < MAX_LENGTH:
        raise InputError(f"{model}: windows of {MAX_LENGTH} tokens do not fit a model with {places} positions")
    module = runtimes.build(name, loaded, place, dtype)
    tokenizer = loaded.tokenizer
    unscored = loaded.unscored
    about = {
        "model": loaded.name,
        "data": asked.description,
        "runtime": name,
        "dtype": dtype + ", emulated" * runtimes.is_emulated(dtype, name, place),
        "dtype_remark": dtype_remark,
        "device": place,
    }
    if unscored:
        about["scores"] = unscored
    if asked.version == squad.V2:
        about |= asdict(no_answers(loaded, threshold))
    del loaded  # its weights are in the module, or not needed
    machine.release_freed_memory()
    return about, evaluate(module, tokenizer, asked, scored=not unscored, null_score_diff_threshold=threshold)


def per_question(questions: Sequence[Question], texts: dict[str, str], version: str = squad.V1) -> pd.DataFrame:
    """One row per question; a missing prediction is empty and scores 0.

    The columns are id, question, context, prediction, references (a tuple), exact_match (0 or 1), f1 (0 to 1),
    question_word, answer_words (shortest reference), context_words and answerable ("yes" or "no"); for SQuAD v2.0 also
    plausible_answers (a tuple).
    """
    measured = (metric_v2 if version == squad.V2 else metric).exact_match_and_f1
    rows = pd.DataFrame(
        {
            "id": q.id,
            "question": q.question,
            "context": q.context,
            "prediction": texts.get(q.id, ""),
            "references": q.answers,
            **dict(zip(METRICS, measured(texts[q.id], q.answers) if q.id in texts else (0.0, 0.0), strict=True)),
            "question_word": question_word(q.question),
            "answer_words": min((len(a.split()) for a in q.answers), default=0),
            "context_words": len(q.context.split()),
            "answerable": "yes" if q.answers else "no",
        }
        for q in questions
    )
    if version == squad.V2:
        rows["plausible_answers"] = [q.plausible_answers for q in questions]
    return rows


def question_word(question: str) -> str:
    """The first question word anywhere in the text ("In which year ...": which), or "other"."""
    return next((word for word in question.lower().replace("?", " ").split() if word in QUESTION_WORDS), "other")


def by_group(rows: pd.DataFrame, column: str, edges: Sequence[int] | None = None) -> pd.DataFrame:
    """EM and F1 in percent and the number of questions, for each value of a column or each range between `edges`."""
    keys = rows[column]
    if edges is not None:
        names = [f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        keys = pd.cut(keys, [*edges, float("inf")], right=False, labels=[*names, f"{edges[-1]} or more"])
    groups = rows.groupby(keys, observed=True)
    table = 100 * groups[list(METRICS)].mean()
    return table.assign(questions=groups.size()).reset_index()


def worst(rows: pd.DataFrame, count: int = 20) -> pd.DataFrame:
    """The questions with the lowest F1 (ties in file order): prediction beside references, in v2.0 also plausible
    answers."""
    chosen = rows.sort_values("f1", kind="stable").head(count)
    columns = ["id", "question", "prediction", "references", "plausible_answers", "f1"]
    return chosen[[name for name in columns if name in rows]].reset_index(drop=True)


def summary(evaluation: Evaluation) -> dict:
    """The score and the cost as one flat dictionary."""
    answers = evaluation.answers
    cost = {field.name: getattr(answers, field.name) for field in fields(answers) if field.metadata}
    return asdict(evaluation.score) | cost
