"""The pipeline against recorded results of transformers 4 (data/record_pipeline_v4.py), and where it differs."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, ROOT
from safetensors.torch import load_file, save_file
from torch import nn

from qalib.model import checkpoint
from qalib.qa.pipeline import Options, answer, pipeline
from qalib.qa.spans import candidates, merged, probabilities, word_spans
from qalib.qa.windows import Window, extends
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json

PIPELINE = sys.modules["qalib.qa.pipeline"]  # qalib.qa.pipeline as an attribute is the function
RECORDED = json.loads((DATA / "pipeline_v4.json").read_text(encoding="ascii"))
RECORDER = runpy.run_path(str(DATA / "record_pipeline_v4.py"))
TEXTS = RECORDED["texts"]
SAME = [case for case in RECORDED["cases"] if "differs" not in case]
DENSE = Path(os.environ.get("QALIB_SHARED", ROOT.parent / "shared")) / "models" / RECORDED["dense"]
ERRORS = {"ValueError": ValueError, "KeyError": KeyError}


def named(cases):
    return [pytest.param(case, id=f"{case['model']}: {case['name']}") for case in cases]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small models are not faster with more, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    RECORDER["tiny_model"](folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return checkpoint.load(tiny_folder)


@pytest.fixture(scope="module")
def models(tiny):
    return {"tiny": tiny}


def model_of(case, models):
    if case["model"] == "dense" and "dense" not in models:
        if not DENSE.is_dir():
            pytest.skip(f"{DENSE} is not there; name the folder that holds models/{RECORDED['dense']} in QALIB_SHARED")
        models["dense"] = checkpoint.load(DENSE)
    return models[case["model"]]


def call(case, model):
    args, kwargs = (RECORDER["filled"](case[key], TEXTS) for key in ("args", "kwargs"))
    return pipeline("question-answering", model=model, **case["setup"])(*args, **kwargs)


def contexts_of(case):
    """The contexts of a case, in the order of its results."""

    def of(value):
        if isinstance(value, list):
            return [context for item in value for context in of(item)]
        context, question = value["context"], value["question"]
        return [context] * len(question) if isinstance(question, list) and isinstance(context, str) else [context]

    args, kwargs = (RECORDER["filled"](case[key], TEXTS) for key in ("args", "kwargs"))
    if args and isinstance(args[0], str):
        return [args[1]]
    return np.ravel(of(args or kwargs.get("X", kwargs.get("data", kwargs)))).tolist()


def without_chance(result):
    """An answer or answers of transformers 4 without the spans of score 0, which it adds in no certain order."""
    if isinstance(result, dict):
        return result
    good = [answer for answer in result if answer["score"] > 0] or result[:1]
    return good[0] if len(good) == 1 else good


def check_same(ours, recorded):
    assert type(ours) is type(recorded)
    ours, recorded = ([x] if isinstance(x, dict) else x for x in (ours, recorded))
    places = [[(a["start"], a["end"], a["answer"]) for a in answers] for answers in (ours, recorded)]
    assert places[0] == places[1]
    scores = [[a["score"] for a in answers] for answers in (ours, recorded)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3, abs=1e-7)


@pytest.mark.filterwarnings("ignore:topk is deprecated")
@pytest.mark.parametrize("case", named(c for c in SAME if "result" in c))
def test_same_as_transformers_4(case, models):
    ours, recorded = call(case, model_of(case, models)), case["result"]
    assert isinstance(ours, list) or not case["many"]
    ours, recorded = (ours, recorded) if case["many"] else ([ours], [recorded])
    assert len(ours) == len(recorded) == len(contexts_of(case))
    for result, expected, context in zip(ours, recorded, contexts_of(case), strict=True):
        check_same(result, without_chance(expected))
        for found in [result] if isinstance(result, dict) else result:
            assert list(found) == ["score", "start", "end", "answer"]
            assert context[found["start"] : found["end"]] == found["answer"]


@pytest.mark.parametrize("case", named(c for c in SAME if "error" in c))
def test_same_errors_as_transformers_4(case, models):
    with pytest.raises(ERRORS[case["error"]]):
        call(case, model_of(case, models))


def test_the_record_is_whole():
    assert f"transformers {RECORDED['versions']['transformers']} " in PIPELINE.__doc__
    recorded = [(case["model"], case["name"]) for case in RECORDED["cases"]]
    assert recorded == [(case["model"], case["name"]) for case in RECORDER["cases"]()]
    assert TEXTS == RECORDER["TEXTS"]


def differing(name):
    return next(case for case in RECORDED["cases"] if case["name"] == name and "differs" in case)


def test_as_many_spans_as_asked_for(tiny):
    case = differing("as many spans as asked for")
    assert "kth" in case["message"]
    assert {found["answer"] for found in call(case, tiny)} == {"he", "is", "he is"}


@pytest.mark.parametrize(
    "name, text",
    [
        ("no room for the overlap", "20 tokens have no room for 4 question tokens, an overlap of 18"),
        ("no room for the context", "200 tokens have no room for 301 question tokens, an overlap of 100"),
        ("too long for the model", "600 tokens do not fit a model with 512 positions"),
    ],
)
def test_windows_that_cannot_be(name, text, tiny):
    case = differing(name)
    assert case["error"] in ("PanicException", "Exception", "RuntimeError")
    with pytest.raises(ValueError, match=text):
        call(case, tiny)


def test_inputs_that_transformers_4_misreads(tiny):
    qa = pipeline(model=tiny)
    who, where = (qa(question=TEXTS[name], context=TEXTS["chopin"]) for name in ("who", "where"))
    assert call(differing("a dict of questions on one context"), tiny) == [who, where]
    assert call(differing("a dict with other keys"), tiny) == who
    assert call(differing("lists in two dicts"), tiny) == [who, who]


def test_answers_lie_in_the_context(tiny):
    case = differing("[CLS] in the question")
    ours, recorded = ({a["answer"]: a["score"] for a in answers} for answers in (call(case, tiny), case["result"]))
    assert ours["was in"] == pytest.approx(recorded["was in"], rel=1e-3)
    assert ours["he was in"] < recorded["he was in"] / 2  # there it also begins with a [CLS] of the question


@pytest.mark.parametrize("name, marked", [("combining, best 3", 1), ("emoji, best 3", 2)])
def test_answers_have_the_marks_of_their_last_letter(name, marked, models):
    count = 0
    for case in (case for case in RECORDED["cases"] if case["name"] == name):
        context = TEXTS[case["kwargs"]["context"][1:]]
        for found, recorded in zip(call(case, model_of(case, models)), case["result"], strict=True):
            assert found["score"] == pytest.approx(recorded["score"], rel=1e-3)
            marks = context[recorded["end"] : found["end"]]
            assert found["answer"] == recorded["answer"] + marks and all(map(extends, marks))
            assert not extends(context[found["end"] :][:1] or " ")
            count += bool(marks)
    assert count == marked


def test_no_candidate(tiny):
    found = pipeline(model=tiny)(question="Who?", context=" ", top_k=3)
    assert found == {"score": 0, "start": 0, "end": 0, "answer": ""}


def test_generators_are_answered_as_asked_for(tiny):
    qa, asked = pipeline(model=tiny), []

    def questions():
        for name in ("who", "where"):
            asked.append(name)
            yield {"question": TEXTS[name], "context": TEXTS["chopin"]}

    results = qa(questions())
    assert not asked
    first = next(results)
    assert asked == ["who"]
    assert [first, *results] == [qa(question=TEXTS[name], context=TEXTS["chopin"]) for name in ("who", "where")]


def test_models_and_tokenizers(tiny, tiny_folder):
    pair = {"question": TEXTS["who"], "context": TEXTS["chopin"]}
    expected = pipeline(model=tiny)(pair)
    for given in (
        {"model": tiny_folder},
        {"model": str(tiny_folder), "tokenizer": str(tiny_folder)},
        {"model": tiny, "tokenizer": tiny_folder},
        {"model": tiny.model, "tokenizer": tiny.tokenizer},
        {"model": tiny, "device": -1},
        {"model": tiny, "device": torch.device("cpu"), "batch_size": 8},
    ):
        assert pipeline("question-answering", **given)(pair) == expected
    assert answer(**pair, model=tiny) == expected


class Runtime(nn.Module):
    """A module that knows no more than a model's logits."""

    def __init__(self, model, wrap):
        super().__init__()
        self.inner, self.wrap = model, wrap

    def forward(self, input_ids, token_type_ids, attention_mask):
        output = self.inner(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
        assert not output.start_logits.requires_grad
        return self.wrap(output.start_logits, output.end_logits)


@pytest.mark.parametrize("wrap", [lambda s, e: (s, e), lambda s, e: {"start_logits": s.bfloat16(), "end_logits": e}])
def test_a_runtime_is_a_model(tiny, wrap):
    pair = {"question": TEXTS["who"], "context": TEXTS["chopin"]}
    qa = pipeline(model=Runtime(tiny.model, wrap), tokenizer=tiny.tokenizer)
    assert qa(pair)["score"] == pytest.approx(pipeline(model=tiny)(pair)["score"], rel=0.05)


def test_what_cannot_be_made(tiny, tmp_path):
    with pytest.raises(ValueError, match="only task supported is 'question-answering'"):
        pipeline("text-classification", model=tiny)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        pipeline(model=tiny.model)
    with pytest.raises(ValueError, match="not a fast tokenizer"):
        pipeline(model=tiny, tokenizer=object())
    with pytest.raises(InputError, match=f"{tmp_path}: no tokenizer"):
        pipeline(model=tiny, tokenizer=tmp_path)
    with pytest.raises(TypeError, match="max_answer_length.*top_k"):
        pipeline(model=tiny, max_answer_length=3)
    with pytest.raises(ValueError, match="doc_stride"):
        pipeline(model=tiny)(question="Who?", context="He.", doc_stride=-1)


def window(ids, first, offsets, words):
    ids, words = np.array(ids), np.array(words)
    return Window(0, ids, np.zeros_like(ids), first, np.array(offsets).reshape(-1, 2), words)


def test_probabilities_by_hand():
    # [CLS] a question token [SEP] two context tokens [SEP]; e**ln(3) = 3, so 3/6 + 1/6 + 2/6
    logits = np.log([3, 50, 50, 1, 2, 50])
    context, none = probabilities(logits, window([101, 7, 102, 8, 9, 102], 3, [[0, 1], [2, 3]], [0, 1]))
    assert context.tolist() == pytest.approx([1 / 6, 2 / 6])
    assert none == pytest.approx(3 / 6)


def test_candidates_by_hand():
    start, end = np.array([0.5, 0.25, 0.25]), np.array([0.0, 0.5, 0.5])
    first, last, scores = candidates(start, end, limit=4, max_tokens=2)
    # (0, 2) is too long, (0, 0) scores 0; of the equal ones the earlier is first
    assert list(zip(first, last, scores, strict=True)) == [(0, 1, 0.25), (1, 1, 0.125), (1, 2, 0.125), (2, 2, 0.125)]
    assert [len(part) for part in candidates(start, end, limit=1, max_tokens=9)] == [1, 1, 1]
    assert [len(part) for part in candidates(start[:0], end[:0], limit=1, max_tokens=9)] == [0, 0, 0]


def test_words_by_hand():
    # "un|seen s|ky": the window begins inside of word 4
    found = word_spans(window([1, 2, 3, 4, 5, 3], 2, [[2, 6], [7, 8], [8, 10]], [4, 5, 5]))
    assert found.tolist() == [[2, 6], [7, 10], [7, 10]]


def test_merging_by_hand():
    def one(score, start, text):
        return {"score": score, "start": start, "end": start + len(text), "answer": text}

    assert merged([one(0.5, 3, "Rome"), one(0.25, 9, "Oslo"), one(0.75, 20, "ROME")]) == [
        one(1.25, 3, "Rome"),
        one(0.25, 9, "Oslo"),
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": "3"}, r"top_k should be a whole number \(got '3'\)"),
        ({"max_answer_len": 2.5}, r"max_answer_len should be a whole number \(got 2.5\)"),
        ({"batch_size": [2]}, r"batch_size should be a whole number \(got \[2\]\)"),
        ({"max_seq_len": "64"}, r"max_seq_len should be a whole number \(got '64'\)"),
        ({"doc_stride": "1"}, r"doc_stride should be a whole number \(got '1'\)"),
        ({"align_to_words": "false"}, r"align_to_words should be True or False \(got 'false'\)"),
        ({"handle_impossible_answer": "no"}, r"handle_impossible_answer should be True or False \(got 'no'\)"),
    ],
)
def test_options_of_the_wrong_type(tiny, options, message):
    for make in (lambda: pipeline(model=tiny, **options), lambda: pipeline(model=tiny)({}, **options)):
        with pytest.raises(ValueError, match=message):
            make()
    assert Options(top_k=np.int64(3), max_seq_len=np.int32(64), align_to_words=np.True_).top_k == 3


def test_samples_are_made_as_in_transformers_4(tiny):
    qa = pipeline(model=tiny)
    pair = {"question": TEXTS["who"], "context": TEXTS["chopin"]}
    assert qa(qa.create_sample(**pair)) == qa(X=qa.create_sample(**pair)) == qa(pair)
    many = qa.create_sample(question=[TEXTS["who"], TEXTS["where"]], context=[TEXTS["chopin"], TEXTS["eiffel"]])
    assert qa(many) == [qa(pair), qa(question=TEXTS["where"], context=TEXTS["eiffel"])]
    assert list(qa(X=(pair for _ in range(2)))) == [qa(pair)] * 2


def test_windows_fit_a_model_of_few_positions(tiny_folder, tmp_path):
    """Where the tokenizer doesn't say so: the default is what the model can do."""
    folder = tmp_path / "few"
    shutil.copytree(tiny_folder, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"max_position_embeddings": 64})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    state = load_file(folder / "model.safetensors")
    key = "bert.embeddings.position_embeddings.weight"
    save_file(state | {key: state[key][:64].clone()}, folder / "model.safetensors")
    long = {"question": TEXTS["when"], "context": TEXTS["long"]}
    few = pipeline(model=folder)
    assert few(long) == pipeline(model=tiny_folder, max_seq_len=64)(long)
    with pytest.raises(
        ValueError, match="windows of 65 tokens do not fit a model with 64 positions; lower max_seq_len"
    ):
        few(long, max_seq_len=65)


def test_options_leave_none_alone():
    assert Options().updated({"top_k": None, "batch_size": 2}) == Options(batch_size=2)
    with pytest.warns(UserWarning, match="topk is deprecated"):
        assert Options().updated({"topk": 2}).top_k == 2
