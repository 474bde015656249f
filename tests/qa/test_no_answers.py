"""Questions without an answer (SQuAD v2.0), from the file to the score."""

import math
from dataclasses import replace

import pytest
import torch
from builders import put_to_other_contexts, squad_file, squad_value

from qalib.model import checkpoint
from qalib.pruning.dataset import SquadDataset
from qalib.qa import answering, evaluation, metric, metric_v2, squad
from qalib.utils.errors import InputError
from qalib.utils.files import write_json

TWO = (
    squad.Question("q1", "t", "When?", "In 1889.", ("1889",), (3,)),
    squad.Question("q2", "t", "Who?", "In 1889.", (), (), ("In",)),
)


def changed(path, version="v2.0", question=0, **changes):
    """A file of TWO with changes to one entry; what is None goes."""
    value = squad_value(TWO, "v2.0")
    entry = value["data"][0]["paragraphs"][question]["qas"][0]
    entry |= changes
    for key in [key for key, what in changes.items() if what is None]:
        del entry[key]
    value["version"] = version
    if version is None:
        del value["version"]
    return write_json(path / "made.json", value)


def test_a_file_of_v2_is_read(tmp_path):
    found = squad.load(str(squad_file(tmp_path / "made.json", TWO, "v2.0")))
    assert found.version == "2.0" and found.first(1).version == "2.0"
    assert found.questions == tuple(replace(q, title="t") for q in TWO)
    assert found.scope == "2 questions (made.json)" and not found.is_all_of("validation")
    dev = replace(found, questions=found.questions * 5936 + found.questions[:1])
    assert dev.scope == "all 11,873 questions of SQuAD v2.0 dev" and dev.is_all_of("validation")
    assert not replace(dev, questions=found.questions * 5285).is_all_of("validation")  # as many as v1.1 has


@pytest.mark.parametrize(
    "version, changes, expected",
    [
        ("2.0", {}, "2.0"),
        (2.0, {"question": 1, "plausible_answers": None}, "2.0"),
        (None, {}, "2.0"),  # told from its questions
        ("0.1", {}, "2.0"),
        ("v2.0", {"is_impossible": None}, "2.0"),
        ("v2.0", {"question": 1, "is_impossible": None}, "2.0"),
        (None, {"question": 1, "is_impossible": None}, "2.0"),
        ("v2.0", {"question": 1, "is_impossible": False, "answers": [{"text": "In", "answer_start": 0}]}, "2.0"),
        (None, {"question": 1, "is_impossible": False, "answers": [{"text": "In", "answer_start": 0}]}, "1.1"),
        ("1.1", {"question": 1, "is_impossible": False, "answers": [{"text": "In", "answer_start": 0}]}, "1.1"),
    ],
)
def test_the_data_say_which_version_they_are(tmp_path, version, changes, expected):
    assert squad.load(str(changed(tmp_path, version, **changes))).version == expected


@pytest.mark.parametrize(
    "version, changes, message",
    [
        ("v2.0", {"is_impossible": True}, r"question 'q1': 'is_impossible' is true, but there are answers \(1\)"),
        ("v2.0", {"question": 1, "is_impossible": False}, "question 'q2' has no answer, but 'is_impossible' is false"),
        (None, {"is_impossible": True}, r"question 'q1': 'is_impossible' is true, but there are answers \(1\)"),
        ("v2.0", {"is_impossible": "no"}, "question 'q1': 'is_impossible' is str, expected bool"),
        ("1.1", {"question": 1, "is_impossible": None}, r"question 'q2' has no answer \(SQuAD 2.0\?\), but the file "),
        ("1.1", {}, r"question 'q2' has no answer \(SQuAD 2.0\?\), but the file says it is SQuAD v1.1"),
        ("v2.0", {"question": 1, "answers": None}, "'answers' is missing"),
        ("v2.0", {"question": 1, "plausible_answers": "In"}, "'plausible_answers' is str, expected list"),
        ("v2.0", {"question": 1, "plausible_answers": [{"text": 3}]}, r"plausible_answers\[0\]: 'text' is int"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path, version, changes, message):
    with pytest.raises(InputError, match=message) as error:
        squad.read(changed(tmp_path, version, **changes))
    assert "made.json: data[0].paragraphs[" in str(error.value) and "\n" not in str(error.value)


def test_without_is_impossible_a_question_without_answers_has_none(tmp_path):
    marked, unmarked = (
        squad.load(str(path)).questions
        for path in (
            squad_file(tmp_path / "marked.json", TWO, "v2.0"),
            changed(tmp_path, "v2.0", question=1, is_impossible=None),
        )
    )
    assert unmarked == marked and not unmarked[1].answers and unmarked[1].plausible_answers
    result = metric_v2.score(unmarked, {"q1": TWO[0].answers[0], "q2": ""})
    assert (result.exact_match, result.f1, result.HasAns_total, result.NoAns_total) == (100, 100, 1, 1)


def test_rows_of_the_hub(monkeypatch):
    import datasets

    def rows(name, split):
        assert (name, split) == ("rajpurkar/squad_v2", "validation")
        said = {"title": "t", "context": "c d", "question": "q?"}
        return datasets.Dataset.from_list([
            said | {"id": "a", "answers": {"text": ["d"], "answer_start": [2]}},
            said | {"id": "b", "answers": {"text": [], "answer_start": []}},
        ])  # fmt: skip

    monkeypatch.setattr(datasets, "load_dataset", rows)
    found = squad.load("squad_v2")
    assert found.version == "2.0" and [q.answers for q in found.questions] == [("d",), ()]
    assert found.description == "SQuAD v2.0 validation (rajpurkar/squad_v2)"
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(InputError, match="squad_v2: rajpurkar/squad_v2 .* name a SQuAD v2.0 file with --data"):
        squad.load("squad_v2")


@pytest.fixture(scope="module")
def mixed():
    """8 questions of the sample, and the same put to other contexts."""
    answerable = squad.load("sample").questions[:120:15]
    return squad.QuestionSet((*answerable, *put_to_other_contexts(answerable)), "mixed", "mixed", "0" * 64, "2.0")


def test_a_file_made_of_v1_questions_put_to_other_contexts(mixed, tmp_path):
    bundled = checkpoint.load()
    path = squad_file(tmp_path / "mixed.json", mixed.questions, "v2.0")
    asked = squad.load(str(path))
    assert [q.answers for q in asked.questions] == [q.answers for q in mixed.questions]
    assert all(q.plausible_answers and not q.answers for q in asked.questions[8:])
    old = replace(asked, questions=asked.questions[:8], version="1.1")
    plain = evaluation.evaluate(bundled.model, bundled.tokenizer, old, progress=False)
    assert type(plain.score) is metric.Score
    runs = {
        threshold: evaluation.evaluate(
            bundled.model, bundled.tokenizer, asked, progress=False, null_score_diff_threshold=threshold
        )
        for threshold in (-1e9, 0.0, 1e9)
    }
    kept = runs[1e9].score  # every question is answered: v1.1's figures, and nothing right where there is no answer
    assert (kept.HasAns_exact, kept.HasAns_total) == (pytest.approx(plain.score.exact_match), 8)
    assert kept.HasAns_f1 == pytest.approx(plain.score.f1) and kept.NoAns_exact == kept.NoAns_f1 == 0
    none = runs[-1e9].score
    assert (none.exact_match, none.HasAns_exact, none.NoAns_exact, none.best_exact) == (50, 0, 100, 50)
    usual = runs[0.0]
    assert usual.score.exact_match <= usual.score.best_exact <= kept.best_exact
    diffs = usual.answers.null_score_diffs
    assert all((text == "") == (diffs[key] > 0) for key, text in usual.answers.texts.items())
    assert diffs == runs[1e9].answers.null_score_diffs and all(map(math.isfinite, diffs.values()))
    by_answer = evaluation.by_group(usual.rows, "answerable").set_index("answerable")
    expected = {"yes": usual.score.HasAns_exact, "no": usual.score.NoAns_exact}
    assert by_answer.exact_match.to_dict() == pytest.approx(expected)
    assert by_answer.f1["yes"] == pytest.approx(usual.score.HasAns_f1)
    assert usual.rows.f1.mean() * 100 == pytest.approx(usual.score.f1)
    assert "plausible_answers" in evaluation.worst(usual.rows, 3) and "plausible_answers" not in plain.rows
    assert usual.comparable_score.exact_match is None


def decoded(model, tokenizer, question):
    """Text and null score difference of one question, window by window, every pair of tokens tried."""
    encoded = tokenizer(
        question.question, question.context, truncation="only_second", max_length=384, stride=128,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors=None,
    )  # fmt: skip
    best, null = None, None
    for number in range(len(encoded["input_ids"])):
        names = ("input_ids", "token_type_ids", "attention_mask")
        with torch.no_grad():
            output = model(**{name: torch.tensor([encoded[name][number]]) for name in names})
        starts, ends = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        null = min([starts[0] + ends[0], *([] if null is None else [null])])
        context = [k for k, part in enumerate(encoded.sequence_ids(number)) if part == 1]
        first = sorted(context, key=lambda k: -starts[k])[:20]
        last = sorted(context, key=lambda k: -ends[k])[:20]
        for start in first:
            for end in last:
                if start <= end < start + 30 and (best is None or starts[start] + ends[end] > best[0]):
                    offsets = encoded["offset_mapping"][number]
                    best = starts[start] + ends[end], question.context[offsets[start][0] : offsets[end][1]]
    return best[1], null - best[0]


def test_answers_equal_a_second_decoding(sparse, asked):
    questions = [*asked.questions]
    for number, count in enumerate((390, 700, 1500)):  # of two and more windows
        words = [questions[(number + k * k) % 8].answers[0] + str(k % 7) * (k % 3 == 0) for k in range(count)]
        questions.append(squad.Question(f"long{number}", "t", f"What is {words[0]}?", " ".join(words), (), ()))
    found = answering.answer(sparse.model, sparse.tokenizer, questions, progress=False)
    assert found.windows > len(questions) + 5
    expected = {q.id: decoded(sparse.model, sparse.tokenizer, q) for q in questions}
    assert found.texts == {key: text for key, (text, _) in expected.items()}
    assert found.null_score_diffs == pytest.approx({key: diff for key, (_, diff) in expected.items()}, abs=1e-4)
    threshold = sorted(found.null_score_diffs.values())[5]
    cut = found.with_no_answers(threshold)
    assert [text != "" for text in cut.texts.values()].count(True) == 6  # at the threshold it is kept
    assert all(
        cut.texts[key] == ("" if diff > threshold else found.texts[key]) for key, diff in found.null_score_diffs.items()
    )


def test_where_there_is_no_candidate_the_answer_is_nothing(sparse):
    found = answering.answer(
        sparse.model, sparse.tokenizer, [squad.Question("q", "t", "What?", " ", (), ())], progress=False
    )
    assert found.texts == {"q": ""} and math.isfinite(found.null_score_diffs["q"])


def test_training_points_at_the_first_token(sparse):
    data = SquadDataset(TWO, sparse.tokenizer)
    assert data.positions[1].tolist() == [0, 0] and data.positions[0].tolist() != [0, 0]


@pytest.mark.parametrize(
    "data, text",
    [
        (
            {"name": "train-v1.1.json"},
            "none: in train-v1.1.json (SQuAD v1.1) every question has an answer; at most the",
        ),
        ({"name": "train-v2.0.json", "version": "2.0"}, "yes, on train-v2.0.json (SQuAD v2.0)"),
        (None, "not stated; if on SQuAD v1.1 alone, the model has seen no question without an answer"),
    ],
)
def test_whether_a_model_knows_of_questions_without_an_answer(sparse, data, text):
    sparse.meta = {"data": data} if data else {}
    about = evaluation.no_answers(sparse, -1.5)
    assert about.no_answer_training.startswith(text) and about.null_score_diff_threshold == -1.5


def test_processes_share_null_scores(sparse, asked):
    whole = answering.answer(sparse.model, sparse.tokenizer, asked.questions, progress=False)
    shares = [
        answering.answer(sparse.model, sparse.tokenizer, asked.questions[part::2], progress=False) for part in (0, 1)
    ]
    both = answering._gathered(shares, asked.questions)
    assert both.null_score_diffs == pytest.approx(whole.null_score_diffs, abs=1e-5)
    assert list(both.null_score_diffs) == list(whole.null_score_diffs)
