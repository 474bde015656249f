import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qalib.qa import metric, squad
from qalib.utils.errors import InputError


def file(tmp_path, **changes):
    answer = {"text": "1889", "answer_start": 3} | changes.pop("answer", {})
    entry = {"id": "q1", "question": "When?", "answers": [answer]} | changes.pop("entry", {})
    paragraph = {"context": "In 1889.", "qas": [entry]} | changes.pop("paragraph", {})
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [paragraph]}]} | changes))
    return path


def test_read(tmp_path):
    (question,) = squad.read(file(tmp_path))
    assert question == squad.Question("q1", "t", "When?", "In 1889.", ("1889",), (3,))


def test_a_byte_order_mark_is_no_matter(tmp_path):
    path = file(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(squad.read(path)) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": {}}, "'data' is dict, expected list"),
        ({"data": []}, "no questions in it"),
        ({"data": [3]}, r"data\[0\]: expected an object with 'paragraphs', found int"),
        ({"paragraph": {"context": 3}}, r"data\[0\].paragraphs\[0\]: 'context' is int, expected str"),
        ({"paragraph": {"context": " "}}, "empty question or context"),
        ({"entry": {"question": ""}}, "question 'q1' has an empty question or context"),
        ({"entry": {"answers": []}}, "question 'q1' has no answer"),
        ({"entry": {"is_impossible": True}}, "SQuAD 2.0"),
        ({"entry": {"id": 4.5}}, "'id' is float, expected str"),
        ({"entry": {"id": True}}, "'id' is bool, expected str"),
        (
            {"entry": {"answers": {"text": ["1889"], "answer_start": []}}},
            r"answers: 1 texts, but 0 numbers in 'answer_s",
        ),
        ({"entry": {"answers": {"text": "1889"}}}, r"answers: 'text' is str, expected list"),
        ({"entry": {"answers": {"text": [3], "answer_start": [3]}}}, r"answers\[0\]: 'text' is int, expected str"),
        ({"answer": {"text": None}}, r"answers\[0\]: 'text' is NoneType"),
        ({"answer": {"answer_start": 4}}, "'1889' is not at character 4 of its context, but at 3"),
        ({"answer": {"answer_start": -5}}, "'1889' is not at character -5 of its context, but at 3"),
        ({"answer": {"text": "1890"}}, "'1890' is not at character 3 of its context, nor anywhere in it"),
        ({"answer": {"text": " "}}, r"answers\[0\]: question 'q1' has an empty answer"),
        ({"answer": {"answer_start": "3"}}, r"answers\[0\]: 'answer_start' is str, expected int"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, changes, message):
    with pytest.raises(InputError, match=f"questions.json: .*{message}") as error:
        squad.read(file(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_numbered_questions(tmp_path):
    (question,) = squad.read(file(tmp_path, entry={"id": 52000}))
    assert question.id == "52000"
    assert metric.score([question], {"52000": "1889"}).exact_match == 100


ROWS = [
    {"id": "a", "title": "t", "context": "In 1889\u2028.", "question": "When?",
     "answers": {"text": ["1889", "In 1889"], "answer_start": [3, 0]}},
    {"id": 2, "title": "t", "context": "Once.", "question": "Who?", "answers": {"text": [], "answer_start": []}},
]  # fmt: skip


def json_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("lines", [True, False])
def test_rows_as_datasets_writes_them(tmp_path, lines, count):
    path = json_lines(tmp_path / "rows.jsonl", ROWS[:count] if lines else [ROWS[:count]])
    expected = (
        squad.Question("a", "t", "When?", "In 1889\u2028.", ("1889", "In 1889"), (3, 0)),
        squad.Question("2", "t", "Who?", "Once.", (), ()),
    )
    loaded = squad.load(str(path))
    assert loaded.questions == expected[:count] and loaded.version == ("1.1" if count == 1 else "2.0")


def test_what_datasets_itself_writes(tmp_path):
    import datasets

    rows = [row | {"id": str(row["id"])} for row in ROWS]
    datasets.Dataset.from_list(rows).to_json(tmp_path / "rows.json")
    assert [q.id for q in squad.read(tmp_path / "rows.json")] == ["a", "2"]


@pytest.mark.parametrize(
    "second, message",
    [
        ('{"id": "a"', r"not JSON \(line 3, column 11: "),
        ("[3]", "row 2: expected an object with 'context', found list"),
        ('{"id": "a", "id": "b"}', "not usable JSON .'id' appears twice in one object"),
        ('{"context": "c", "question": "q"}', "row 2: 'id' is missing"),
        (json.dumps(ROWS[0]), "row 2: the id 'a' appears twice"),
        (
            json.dumps(ROWS[1] | {"is_impossible": False}),
            "row 2: question '2' has no answer, but 'is_impossible' is fa",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, second, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + second + "\n")
    with pytest.raises(InputError, match=f"rows.jsonl: {message}") as error:
        squad.read(path)
    assert "\n" not in str(error.value)


def test_an_id_must_not_stand_twice(tmp_path):
    path = file(tmp_path)
    value = json.loads(path.read_text())
    value["data"] *= 2
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"data\[1\].*the id 'q1' appears twice"):
        squad.read(path)


def test_not_json_and_not_there(tmp_path):
    with pytest.raises(InputError, match="nowhere.json: no such file"):
        squad.load(str(tmp_path / "nowhere.json"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="text: not JSON"):
        squad.load(str(tmp_path / "text"))
    for text, message in {
        '{"data": [], "data": []}': "not usable JSON .'data' appears twice in one object",
        '{"data": "ab\\ud83d"}': "unpaired surrogate '.ud83d' after '{\"data\": \"ab'",
        '{"data": ' + "1" * 5000 + "}": "not usable JSON .Exceeds the limit",
    }.items():
        (tmp_path / "text").write_text(text)
        with pytest.raises(InputError, match=f"text: {message}"):
            squad.load(str(tmp_path / "text"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="bytes: not UTF-8"):
        squad.load(str(tmp_path / "bytes"))


def test_the_sample_is_what_it_should_be():
    sample = squad.load("sample")
    assert len(sample) >= 150 and len({q.context for q in sample.questions}) >= 40
    for q in sample.questions:
        assert len(q.answers) >= 2
        for text, start in zip(q.answers, q.starts, strict=True):
            assert q.context[start : start + len(text)] == text, q.id


def test_first():
    sample = squad.load("sample")
    part = sample.first(3)
    assert part.questions == sample.questions[:3] and "the first 3 of" in part.description
    assert sample.first(None) is sample and sample.first(10**6) is sample


def test_the_hub_out_of_reach_is_said_and_nothing_else_is_used(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="not in the cache and cannot be downloaded .ConnectionError: no route"):
        squad.load("squad")


def test_rows_of_the_hub(monkeypatch):
    import datasets

    row = {"id": "a", "title": "t", "question": "q?", "context": "c d", "answers": {"text": ["d"], "answer_start": [2]}}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list([row]))
    assert squad.load("squad").questions == (squad.Question("a", "t", "q?", "c d", ("d",), (2,)),)


def test_all_of_dev(shared):
    dev = squad.load(str(shared / "squad" / "dev-v1.1.json"))
    assert len(dev) == 10570 and len({q.context for q in dev.questions}) == 2067


KEYS = st.sampled_from(
    "data paragraphs context qas id question answers text answer_start is_impossible plausible_answers".split()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_subnormal=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
)
ANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY
@given(VALUES)
def test_any_json_is_read_or_refused_by_name(tmp_path, value):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(value))
    for read in (squad.read, metric.read_predictions):
        try:
            read(path)
        except InputError as error:
            assert "any.json" in str(error) and "\n" not in str(error)


@ANY
@given(st.sampled_from(["answer", "entry", "paragraph"]), KEYS, VALUES, st.sampled_from(["1.1", "v2.0", "", None]))
def test_any_value_in_a_question_is_read_or_refused_by_name(tmp_path, where, key, value, version):
    try:
        questions = squad.read(file(tmp_path, **{where: {key: value}}, version=version))
    except InputError as error:
        assert "questions.json" in str(error) and "\n" not in str(error)
    else:
        assert all(q.context.startswith(a, s) for q in questions for a, s in zip(q.answers, q.starts, strict=True))
