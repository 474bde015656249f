"""The official SQuAD v2.0 metric: v1.1's, extended to questions without an answer, where the empty text is right.

After Rajpurkar et al. 2018 (arXiv 1806.03822) and the `evaluate-v2.0.py` published with it.

>>> exact_match_and_f1("", ())  # a question without an answer
(1.0, 1.0)
>>> exact_match_and_f1("in 1889", ())
(0.0, 0.0)
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from qalib.qa import metric
from qalib.qa.metric import best_over_references, exact_match, normalize
from qalib.qa.squad import Question
from qalib.utils.errors import InputError
from qalib.utils.quantity import measure

HAS_ANSWER, NO_ANSWER = "questions that have an answer", "questions that have none; only the empty text is right"
BEST = (
    "the highest {} if answers are kept up to some no-answer score (null score - best answer's, or a probability) and "
    "all others count as empty; empty predictions stay empty"
)
UP_TO = "the no-answer score up to which {} keeps answers; 0 if keeping none is best (as in the official script)"


@dataclass(frozen=True)
class Score(metric.Score):
    """How good predictions are. Fields without questions or no-answer scores to compute them from are None."""

    exact_match: float | None = measure(
        "%", "answers equal to a reference after normalising / all questions (official SQuAD v2.0 metric)"
    )
    f1: float | None = measure(
        "%", "mean word overlap with the best reference; EM if there is no answer (official SQuAD v2.0 metric)"
    )
    HasAns_exact: float | None = measure("%", f"exact match over the {HAS_ANSWER}")
    HasAns_f1: float | None = measure("%", f"F1 over the {HAS_ANSWER}")
    HasAns_total: int = measure("count", HAS_ANSWER)
    NoAns_exact: float | None = measure("%", f"exact match over the {NO_ANSWER}")
    NoAns_f1: float | None = measure("%", f"F1 over the {NO_ANSWER}; equals their exact match")
    NoAns_total: int = measure("count", "questions that have no answer")
    best_exact: float | None = measure("%", BEST.format("exact match"))
    best_exact_thresh: float | None = measure("1", UP_TO.format("best_exact"))
    best_f1: float | None = measure("%", BEST.format("F1"))
    best_f1_thresh: float | None = measure("1", UP_TO.format("best_f1"))


def f1(prediction: str, reference: str) -> float:
    """F1 as in v1.1, but 1 for two texts that are both empty after normalising."""
    if not normalize(prediction) and not normalize(reference):
        return 1.0
    return metric.f1(prediction, reference)


def exact_match_and_f1(prediction: str, references: Iterable[str]) -> tuple[float, float]:
    """Both measures of one answer, 0 to 1. References that normalise to nothing count only if there are no others."""
    references = [reference for reference in references if normalize(reference)] or [""]
    return best_over_references(exact_match, prediction, references), best_over_references(f1, prediction, references)


def score(
    questions: Iterable[Question],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float] | None = None,
    na_prob_thresh: float = 1.0,
) -> Score:
    """Score predictions, `{question id: answer text}`, the empty text for "no answer".

    `na_probs` says for each prediction how sure it is that there is no answer: a probability, or a score difference.
    Above `na_prob_thresh` the prediction counts as empty. A question without a prediction counts as wrong; the official
    script stops there.

    Raises InputError if no prediction belongs to any of the questions, or one that does is missing from `na_probs`.
    """
    questions = list(questions)
    answered = metric.answered(questions, predictions)
    raw = {q.id: exact_match_and_f1(predictions[q.id], q.answers) for q in answered}
    kept, best_exact, best_f1 = raw, (None, None), (None, None)
    if na_probs is not None:
        if absent := [q.id for q in answered if q.id not in na_probs]:
            raise InputError(f"no no-answer probability for {absent[0]!r}, which has a prediction")
        kept = {q.id: _emptied(q) if na_probs[q.id] > na_prob_thresh else raw[q.id] for q in answered}
        best_exact, best_f1 = (_best(answered, predictions, raw, na_probs, len(questions), which) for which in (0, 1))
    has_answer, no_answer = [q for q in questions if q.answers], [q for q in questions if not q.answers]
    return Score(
        exact_match=_mean(kept, questions, 0),
        f1=_mean(kept, questions, 1),
        total=len(questions),
        missing=len(questions) - len(answered),
        unknown=len(predictions) - len(answered),
        HasAns_exact=_mean(kept, has_answer, 0),
        HasAns_f1=_mean(kept, has_answer, 1),
        HasAns_total=len(has_answer),
        NoAns_exact=_mean(kept, no_answer, 0),
        NoAns_f1=_mean(kept, no_answer, 1),
        NoAns_total=len(no_answer),
        best_exact=best_exact[0],
        best_exact_thresh=best_exact[1],
        best_f1=best_f1[0],
        best_f1_thresh=best_f1[1],
    )


def _emptied(question: Question) -> tuple[float, float]:
    right = float(not question.answers)
    return right, right


def _mean(scores: Mapping[str, tuple[float, float]], questions: Sequence[Question], which: int) -> float | None:
    """EM (0) or F1 (1) in percent over some questions, None if there are none; one without a score counts as wrong."""
    if not questions:
        return None
    return 100 * sum(scores[q.id][which] for q in questions if q.id in scores) / len(questions)


def _best(
    answered: Sequence[Question],
    predictions: Mapping[str, str],
    scores: Mapping[str, tuple[float, float]],
    na_probs: Mapping[str, float],
    total: int,
    which: int,
) -> tuple[float, float]:
    """The best EM (0) or F1 (1), and its threshold.

    As in the official script, equal no-answer scores are taken one by one, in the order of `na_probs`, so a threshold
    may fall between them; if keeping no answer at all is best, the threshold is 0.
    """
    by_id = {q.id: q for q in answered}
    order = [key for key in sorted(na_probs, key=lambda key: na_probs[key]) if key in by_id]
    gains = (scores[key][which] if by_id[key].answers else -float(bool(predictions[key])) for key in order)
    sums = list(accumulate(gains, initial=float(sum(not q.answers for q in answered))))
    place = sums.index(max(sums))
    return 100 * sums[place] / total, float(na_probs[order[place - 1]]) if place else 0.0


def read_na_probs(path: Path | str) -> dict[str, float]:
    """Read no-answer scores: a JSON object `{question id: number}`, or rows (JSON Lines, or an array) of objects with
    `id` and `no_answer_probability`. Raises InputError naming file and entry."""
    value = metric.read_by_id(path, "no_answer_probability", "number")
    for key, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InputError(f"{path}: the no-answer score for {key!r} is {type(number).__name__}, expected a number")
        if not abs(number) <= sys.float_info.max:
            raise InputError(f"{path}: the no-answer score for {key!r} is {number}, expected a finite number")
    return value
