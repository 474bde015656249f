import json

import pytest

from qalib.qa import metric, metric_v2
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


def test_predictions_in_rows(tmp_path):
    path = tmp_path / "predictions.jsonl"
    rows = [{"id": "a", "prediction_text": "x", "no_answer_probability": 0.0}, {"id": 7, "prediction_text": ""}]
    lines = [json.dumps(row) for row in rows]
    for text, expected in {
        "\n".join(lines): {"a": "x", "7": ""},
        json.dumps(rows): {"a": "x", "7": ""},
        lines[0] + "\n": {"a": "x"},
        '{"id": "x"}': {"id": "x"},  # the prediction for a question of that name
    }.items():
        path.write_text(text)
        assert metric.read_predictions(path) == expected
    path.write_text(lines[0])
    assert metric_v2.read_na_probs(path) == {"a": 0.0}


@pytest.mark.parametrize(
    "second, message",
    [
        ('{"id": "b"}', "row 2: expected an object {question id: answer text}, or rows of objects with 'id' and 'pre"),
        ('{"id": 1.5, "prediction_text": "x"}', "row 2: expected an object"),
        ('["b", "x"]', "row 2: expected an object"),
        ('{"id": "a", "prediction_text": "y"}', "row 2: the id 'a' appears twice"),
        ('{"id": "b", "prediction_text": 3}', "the prediction for 'b' is int"),
        ("{", r"not JSON \(line 2, column 2"),
    ],
)
def test_bad_rows_of_predictions(tmp_path, second, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "a", "prediction_text": "x"}\n' + second)
    with pytest.raises(InputError, match=f"predictions.jsonl: {message}"):
        metric.read_predictions(path)
