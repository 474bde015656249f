"""Evaluation: answers to a whole question set, and how good they are."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from accelerate import PartialState
from torch import nn

from qalib import runtimes
from qalib.model import bert, checkpoint
from qalib.qa import metric, squad
from qalib.qa.answering import LENGTH_SORTED, Answers, BatchingConfig, answer
from qalib.qa.squad import Question, QuestionSet
from qalib.qa.windows import MAX_LENGTH
from qalib.utils import machine
from qalib.utils.errors import InputError

QUESTION_WORDS = ("what", "who", "when", "where", "which", "how", "why")


@dataclass(frozen=True)
class Evaluation:
    """A scored run: the metric, the answers with their times, and the questions that were answered."""

    score: metric.Score
    answers: Answers
    question_set: QuestionSet

    @property
    def comparable_score(self) -> metric.Score:
        """The score as it may stand beside published ones: EM and F1 are None unless they are of all of SQuAD dev."""
        whole = self.question_set.is_all_of("validation")
        return self.score if whole else replace(self.score, exact_match=None, f1=None)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row a question (`per_question`), made when first asked for: with many questions it takes memory."""
        return per_question(self.question_set.questions, self.answers.texts)


def evaluate(
    model: nn.Module,
    tokenizer,
    questions: QuestionSet,
    batching: BatchingConfig = LENGTH_SORTED,
    progress: bool = True,
    scored: bool = True,
) -> Evaluation:
    """Answer a question set and score the answers; unless `scored`, as for random weights, EM and F1 are None."""
    answers = answer(model, tokenizer, questions.questions, batching, progress)
    score = metric.score(questions.questions, answers.texts)
    if not scored:
        score = replace(score, exact_match=None, f1=None)
    return Evaluation(score, answers, questions)


def load_and_evaluate(
    model: str,
    data: str = "sample",
    runtime: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    questions: int | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Load, answer and score: what was run on what, and how it went. For the arguments see `qalib evaluate --help`."""
    place = machine.device(device)
    dtype = machine.dtype(dtype, place)
    PartialState(cpu=place == "cpu")  # joins the other processes, if there are any; each takes its GPU
    asked = squad.load(data).first(questions)
    loaded = checkpoint.load(model)
    if (places := bert.positions(loaded.model)) < MAX_LENGTH:
        raise InputError(f"{model}: windows of {MAX_LENGTH} tokens do not fit a model of {places} positions")
    name = runtime or runtimes.best(place)
    module = runtimes.build(name, loaded, place, dtype)
    tokenizer = loaded.tokenizer
    unscored = loaded.unscored
    about = {
        "model": loaded.name,
        "data": asked.description,
        "runtime": name,
        "dtype": dtype + ", emulated" * machine.is_emulated(dtype, place),
        "device": place,
    }
    if unscored:
        about["scores"] = unscored
    del loaded  # its weights are in the module, or not needed
    machine.trim()
    return about, evaluate(module, tokenizer, asked, scored=not unscored)


def per_question(questions: Sequence[Question], texts: dict[str, str]) -> pd.DataFrame:
    """One row a question; one without a prediction has an empty one and scores 0.

    The columns are id, question, context, prediction, references (a tuple), exact_match (0 or 1), f1 (0 to 1),
    question_word, answer_words (shortest reference) and context_words.
    """
    return pd.DataFrame(
        {
            "id": q.id,
            "question": q.question,
            "context": q.context,
            "prediction": texts.get(q.id, ""),
            "references": q.answers,
            "exact_match": metric.best_over_references(metric.exact_match, texts[q.id], q.answers)
            if q.id in texts
            else 0.0,
            "f1": metric.best_over_references(metric.f1, texts[q.id], q.answers) if q.id in texts else 0.0,
            "question_word": question_word(q.question),
            "answer_words": min(len(a.split()) for a in q.answers),
            "context_words": len(q.context.split()),
        }
        for q in questions
    )


def _measured(measure: Callable[[str, str], float], texts: dict[str, str], question: Question) -> float:
    if question.id not in texts:
        return 0.0
    return metric.best_over_references(measure, texts[question.id], question.answers)


def question_word(question: str) -> str:
    """The first question word in the text, wherever it stands ("In which year ...": which), or "other"."""
    return next((word for word in question.lower().replace("?", " ").split() if word in QUESTION_WORDS), "other")


def by_group(rows: pd.DataFrame, column: str, edges: Sequence[int] | None = None) -> pd.DataFrame:
    """EM and F1 in percent and the number of questions, for each value of a column or each range between `edges`."""
    keys = rows[column]
    if edges is not None:
        names = [f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        keys = pd.cut(keys, [*edges, float("inf")], right=False, labels=[*names, f"{edges[-1]} or more"])
    groups = rows.groupby(keys, observed=True)
    table = 100 * groups[["exact_match", "f1"]].mean()
    return table.assign(questions=groups.size()).reset_index()


def worst(rows: pd.DataFrame, count: int = 20) -> pd.DataFrame:
    """The questions with the lowest F1 (ties in file order), prediction and references side by side."""
    chosen = rows.sort_values("f1", kind="stable").head(count)
    return chosen[["id", "question", "prediction", "references", "f1"]].reset_index(drop=True)


def summary(evaluation: Evaluation) -> dict:
    """The score and the cost as one flat dictionary."""
    cost = {key: value for key, value in asdict(evaluation.answers).items() if key != "texts"}
    return asdict(evaluation.score) | cost
