"""The official SQuAD v1.1 metric: exact match and F1 of answer texts.

After Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1, and the `evaluate-v1.1.py` published with it.

>>> exact_match("the Eiffel Tower!", "Eiffel tower")
True
>>> f1("in 1889", "1889")  # precision 1/2, recall 1/1
0.6666666666666666
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qalib.qa.squad import Question
from qalib.utils.errors import InputError
from qalib.utils.files import read_json
from qalib.utils.quantity import measure

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> bool:
    """Are the two texts equal after `normalize`?"""
    return normalize(prediction) == normalize(reference)


def f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over normalised words, 0 to 1.

    As in the official script, two texts that are both empty after normalising share no words: 0.
    """
    predicted, expected = normalize(prediction).split(), normalize(reference).split()
    common = sum((Counter(predicted) & Counter(expected)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def best_over_references(measure: Callable[[str, str], float], prediction: str, references: Iterable[str]) -> float:
    """The measure against the reference that gives the highest value."""
    return max(float(measure(prediction, reference)) for reference in references)


def exact_match_and_f1(prediction: str, references: Iterable[str]) -> tuple[float, float]:
    """Both measures of one answer, 0 to 1, each against its best reference."""
    references = list(references)
    return best_over_references(exact_match, prediction, references), best_over_references(f1, prediction, references)


@dataclass(frozen=True)
class Score:
    """How good predictions are; EM and F1 may be None where they would mean nothing."""

    exact_match: float | None = measure(
        "%", "answers equal to a reference after normalising / all questions (official SQuAD v1.1 metric)"
    )
    f1: float | None = measure("%", "mean word overlap with the best reference (official SQuAD v1.1 metric)")
    total: int = measure("count", "questions scored")
    missing: int = measure("count", "questions without a prediction; they count as wrong")
    unknown: int = measure("count", "predictions for ids that are not in the question set; they are ignored")

    def withheld(self) -> "Score":
        """The counts alone; everything else is None."""
        return replace(self, **{field.name: None for field in fields(self) if field.metadata["unit"] != "count"})


def score(questions: Iterable[Question], predictions: Mapping[str, str]) -> Score:
    """Score predictions, `{question id: answer text}`.

    Raises InputError if no prediction belongs to any of the questions.
    """
    questions = list(questions)
    found = answered(questions, predictions)
    scores = [exact_match_and_f1(predictions[q.id], q.answers) for q in found]
    matches, overlap = map(sum, zip(*scores, strict=True))
    total = len(questions)
    return Score(100 * matches / total, 100 * overlap / total, total, total - len(found), len(predictions) - len(found))


def answered(questions: Sequence[Question], predictions: Mapping[str, str]) -> list[Question]:
    """The questions that have a prediction. Raises InputError if none has."""
    found = [q for q in questions if q.id in predictions]
    if not found:
        raise InputError(
            f"none of the {len(predictions)} predictions has the id of any of the {len(questions)} questions"
        )
    return found


def read_predictions(path: Path | str) -> dict[str, str]:
    """Read a prediction file: a JSON object `{question id: answer text}`, or rows (JSON Lines, or an array) of objects
    with `id` and `prediction_text`, as for the metric in `evaluate`. Raises InputError naming file and entry."""
    value = read_by_id(path, "prediction_text", "answer text")
    for key, text in value.items():
        if not isinstance(text, str):
            raise InputError(f"{path}: the prediction for {key!r} is {type(text).__name__}, expected a string")
    return value


def read_by_id(path: Path | str, field: str, contents: str) -> dict[str, Any]:
    """Read a value for each question id: an object `{id: value}`, or rows with `id` and the value in `field`.

    Raises InputError for anything else; `contents` says what the values are.
    """
    value = read_json(path, lines=True)
    if isinstance(value, dict) and not {"id", field} <= value.keys():
        return value
    expected = f"expected an object {{question id: {contents}}}, or rows of objects with 'id' and {field!r}"
    if not isinstance(value, dict | list) or not value:
        raise InputError(f"{path}: {expected}, found {'an empty ' * (value == [])}{type(value).__name__}")
    result: dict[str, Any] = {}
    for number, row in enumerate([value] if isinstance(value, dict) else value, 1):
        if not isinstance(row, dict) or field not in row or type(key := row.get("id")) not in (str, int):
            raise InputError(f"{path}: row {number}: {expected}")
        if str(key) in result:
            raise InputError(f"{path}: row {number}: the id {key!r} appears twice")
        result[str(key)] = row[field]
    return result
