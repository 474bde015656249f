import json

import pytest

from qalib.qa import metric
from qalib.qa.squad import Question
from qalib.utils.errors import InputError

CASES = [  # prediction, reference, exact match, F1; each worked by hand
    ("Denver Broncos", "Denver Broncos", 1, 1),
    ("the Denver Broncos", "Denver Broncos", 1, 1),
    ("Denver", "Denver Broncos", 0, 2 / 3),  # precision 1, recall 1/2
    ("The Eiffel-Tower!", "eiffeltower", 1, 1),  # a hyphen goes, it does not split
    ("a, an, the", "the", 1, 0),  # both empty: equal, but no word in common
    ("", "Denver", 0, 0),
    ("in 1889", "1889", 0, 2 / 3),
    ("1889 and 1890", "1890, 1889", 0, 0.8),  # precision 2/3, recall 1
    ("to to to be", "to be", 0, 2 / 3),  # counted once each: precision 2/4, recall 1
    ("theatre", "atre", 0, 0),  # "the" goes only as a word
    ("£5", "5", 0, 0),  # only ASCII punctuation goes
    ("  Two\twords ", "two words", 1, 1),
    ("naïve", "naive", 0, 0),
    ("$5", "5", 1, 1),
]


@pytest.mark.parametrize("prediction, reference, exact, overlap", CASES)
def test_by_hand(prediction, reference, exact, overlap):
    assert metric.exact_match(prediction, reference) == exact
    assert metric.f1(prediction, reference) == pytest.approx(overlap)


def question(identifier, *answers):
    return Question(identifier, "", "?", "c", answers, (0,) * len(answers))


def test_score_takes_the_best_reference_and_counts_what_is_missing():
    questions = [question("a", "x y", "x"), question("b", "z"), question("c", "u v w")]
    result = metric.score(questions, {"a": "x", "c": "u v", "other": "x"})
    assert result.exact_match == pytest.approx(100 / 3)
    assert result.f1 == pytest.approx(100 * (1 + 0.8) / 3)
    assert (result.total, result.missing, result.unknown) == (3, 1, 1)


def test_no_id_in_common_is_an_error():
    with pytest.raises(InputError, match="none of the 1 predictions has the id of any of the 1 questions"):
        metric.score([question("a", "x")], {"b": "x"})


@pytest.mark.parametrize(
    "value, message",
    [([], "expected an object"), ({"a": 3}, "the prediction for 'a' is int"), ("x", "expected an obj")],
)
def test_bad_prediction_files(tmp_path, value, message):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"predictions.json: {message}"):
        metric.read_predictions(path)
