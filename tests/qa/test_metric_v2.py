"""The SQuAD v2.0 metric: by hand, and against a second implementation, exact in fractions, written from the paper."""

import json
import math
import random
import re
from collections import Counter
from dataclasses import asdict
from fractions import Fraction

import pytest

from qalib.qa import metric_v2
from qalib.qa.squad import Question
from qalib.utils.errors import InputError


def question(identifier, *answers):
    return Question(identifier, "", "?", "c", answers, (0,) * len(answers))


@pytest.mark.parametrize(
    "prediction, answers, exact, overlap",
    [
        ("", [], 1, 1),
        ("the", [], 1, 1),  # normalises to nothing
        ("London", [], 0, 0),
        ("", ["London"], 0, 0),
        ("in London", ["London", "Paris"], 0, 2 / 3),  # precision 1/2, recall 1
        ("", ["the", "!"], 1, 1),  # answers that normalise to nothing are none
        ("the", ["the"], 1, 1),
        ("", ["the", "London"], 0, 0),  # beside a real one they count for nothing
        ("London", ["the", "London"], 1, 1),
    ],
)
def test_one_answer_by_hand(prediction, answers, exact, overlap):
    assert metric_v2.exact_match_and_f1(prediction, answers) == (exact, pytest.approx(overlap))


FIVE = [question("a", "in Paris"), question("b"), question("c"), question("d", "1889"), question("e", "x y")]
GUESSES = {"a": "Paris", "b": "", "c": "London", "d": "", "e": "x y", "other": "z"}


def test_five_questions_by_hand():
    found = metric_v2.score(FIVE, GUESSES)
    # right are b and e; a has an overlap of 2/3
    assert (found.exact_match, found.f1) == (40, pytest.approx(100 * (2 / 3 + 2) / 5))
    assert (found.HasAns_exact, found.HasAns_f1) == (pytest.approx(100 / 3), pytest.approx(100 * (2 / 3 + 1) / 3))
    assert (found.NoAns_exact, found.NoAns_f1) == (50, 50)
    assert (found.total, found.HasAns_total, found.NoAns_total, found.missing, found.unknown) == (5, 3, 2, 0, 1)
    assert found.best_exact is found.best_exact_thresh is found.best_f1 is found.best_f1_thresh is None


def test_the_best_threshold_by_hand():
    scores = {"e": -3.0, "a": -1.0, "c": -2.0, "b": 4.0, "d": 0.5}
    found = metric_v2.score(FIVE, GUESSES, scores, math.inf)
    # kept up to it: nothing 2 right (b, c); e 3; e, c 2; e, c, a 2 and with the overlap 2 2/3; then no more
    assert (found.best_exact, found.best_exact_thresh) == (60, -3)
    assert (found.best_f1, found.best_f1_thresh) == (60, -3)
    assert found.exact_match == 40
    found = metric_v2.score(FIVE, GUESSES, scores, -2.5)  # above -2.5 all count as empty: right are b, c and e
    assert (found.exact_match, found.f1, found.NoAns_exact, found.best_exact) == (60, 60, 100, 60)
    found = metric_v2.score(FIVE, GUESSES, scores | {"c": -0.5})
    assert (found.best_f1, found.best_f1_thresh) == (pytest.approx(100 * (3 + 2 / 3) / 5), -1)


def test_what_there_is_none_of_has_no_value():
    found = metric_v2.score(FIVE[1:3], {"b": "", "c": "x"})
    assert (found.exact_match, found.NoAns_exact, found.HasAns_exact, found.HasAns_total) == (50, 50, None, 0)
    held = found.withheld()
    assert {name for name, value in asdict(held).items() if value is not None} == {
        "total", "missing", "unknown", "HasAns_total", "NoAns_total"
    }  # fmt: skip


def test_missing_predictions_are_wrong_and_missing_scores_an_error():
    found = metric_v2.score(FIVE, {"b": ""}, {"b": 0.0})
    assert (found.exact_match, found.NoAns_exact, found.missing, found.best_exact) == (20, 50, 4, 20)
    with pytest.raises(InputError, match="no no-answer probability for 'c', which has a prediction"):
        metric_v2.score(FIVE, {"b": "", "c": "x"}, {"b": 0.0})
    with pytest.raises(InputError, match="none of the 1 predictions"):
        metric_v2.score(FIVE, {"z": ""})


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "expected an object"),
        ('{"a": "0.5"}', "the no-answer score for 'a' is str, expected a number"),
        ('{"a": true}', "the no-answer score for 'a' is bool, expected a number"),
        ('{"a": NaN}', "the no-answer score for 'a' is nan, expected a finite number"),
        ('{"a": -Infinity}', "the no-answer score for 'a' is -inf, expected a finite number"),
        (json.dumps({"a": 10**400}), "the no-answer score for 'a' is 10000"),
    ],
)
def test_bad_files_of_no_answer_scores(tmp_path, text, message):
    path = tmp_path / "odds.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"odds.json: {message}"):
        metric_v2.read_na_probs(path)


def words(text):
    letters = [c for c in text.lower() if not re.match(r"[!-/:-@\[-`{-~]", c)]
    return re.sub(r"(?<!\w)(a|an|the)(?!\w)", " ", "".join(letters)).split()


def right_and_overlap(prediction, answers):
    """EM and F1 of one answer as fractions."""
    ours, real = words(prediction), [words(answer) for answer in answers if words(answer)]
    if not real:
        return (Fraction(1), Fraction(1)) if not ours else (Fraction(0), Fraction(0))
    shared = [sum(min(count, Counter(ours)[word]) for word, count in Counter(gold).items()) for gold in real]
    return Fraction(ours in real), max(
        Fraction(2 * common, len(ours) + len(gold)) for common, gold in zip(shared, real, strict=True)
    )


def percent(values, total):
    return None if not total else float(100 * sum(values, Fraction(0)) / total)


def second_score(questions, guesses, odds, most):
    """Everything that a Score holds, and for both best thresholds all that do equally well."""
    there = [q for q in questions if q.id in guesses]
    plain = {q.id: right_and_overlap(guesses[q.id], q.answers) for q in there}
    cut = {key: pair for key, pair in plain.items()}
    for q in there:
        if odds is not None and odds[q.id] > most:
            cut[q.id] = (Fraction(0),) * 2 if q.answers else (Fraction(1),) * 2
    groups = {"": questions, "HasAns_": [q for q in questions if q.answers],
              "NoAns_": [q for q in questions if not q.answers]}  # fmt: skip
    result = {"missing": len(questions) - len(there), "unknown": len(guesses) - len(there)}
    for name, group in groups.items():
        result[f"{name}total"] = len(group)
        for which, title in enumerate(("exact", "f1")):
            result[f"{name}{title}"] = percent((cut[q.id][which] for q in group if q.id in cut), len(group))
    result["exact_match"] = result.pop("exact")
    ties = {}
    for which, title in enumerate(("exact", "f1")):
        result[f"best_{title}"] = result[f"best_{title}_thresh"] = None
        if odds is not None:
            order = [key for _, _, key in sorted((odds[key], place, key) for place, key in enumerate(odds))]
            order = [key for key in order if key in plain]
            totals = []
            for count in range(len(order) + 1):
                kept = set(order[:count])
                totals.append(
                    sum(
                        plain[q.id][which] * (q.id in kept) if q.answers else not (q.id in kept and guesses[q.id])
                        for q in there
                    )
                )
            ties[title] = [odds[order[count - 1]] if count else 0 for count, t in enumerate(totals) if t == max(totals)]
            result[f"best_{title}"], result[f"best_{title}_thresh"] = percent([max(totals)], len(questions)), None
    return result, ties


WORDS = ["a", "the", "The,", "x", "X!", "y", "in", "1889", "...", "theatre"]


def a_case(rng):
    def text():
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 3)))

    questions = [
        question(f"q{n}", *(text() for _ in range(rng.randint(1, 3) if rng.random() < 0.6 else 0)))
        for n in range(rng.randint(1, 9))
    ]
    guesses = {q.id: rng.choice([text(), "", *q.answers]) for q in questions if rng.random() < 0.95}
    guesses = guesses or {questions[0].id: ""}
    keys = [*guesses, "other"]
    rng.shuffle(keys)
    step = rng.choice([0.5, 0.001])  # with few values many are equal
    odds = {key: step * round(rng.uniform(-4, 4) / step) for key in keys}
    return questions, guesses | ({"unknown": "x"} if rng.random() < 0.1 else {}), rng.choice([None, odds, odds])


def check(number):
    rng = random.Random(number)
    questions, guesses, odds = a_case(rng)
    if odds is not None and "unknown" in guesses:
        odds["unknown"] = 0.0
    most = rng.choice([1.0, 0.0, -1.0, math.inf])
    ours = asdict(metric_v2.score(questions, guesses, odds, most))
    expected, ties = second_score(questions, guesses, odds, most)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("_thresh") and odds is not None:
            best = ties[name.split("_")[1]]
            assert ours[name] in best, (number, name)
            assert name != "best_exact_thresh" or ours[name] == best[0], (number, name)
        else:
            assert ours[name] == (None if value is None else pytest.approx(value, abs=1e-9)), (number, name)
    return odds is not None, any(not q.answers for q in questions)


def test_ten_thousand_random_cases_equal_a_second_implementation():
    seen = Counter(check(number) for number in range(10_000))
    assert min(seen.values()) > 500 and len(seen) == 4
