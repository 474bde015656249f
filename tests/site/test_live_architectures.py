"""The live page of models other than the bundled one: its JavaScript in node, without a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from qalib import pipeline
from qalib.site import live
from qalib.utils.errors import InputError

SCRIPT = Path(__file__).parent / "ask_page.mjs"


@pytest.fixture(autouse=True, scope="module")
def page_can_be_made():
    if reason := live.missing():
        pytest.skip(reason)


@pytest.mark.parametrize("name", ["packed_folder", "mpnet"])
def test_answers_are_those_of_the_pipeline(name, request, asked, tmp_path):
    if not (node := shutil.which("node")):
        pytest.skip("no node on the path")
    folder = str(request.getfixturevalue(name))
    page = live.make(tmp_path / "live", folder)
    long = asked.questions[5]
    pairs = [(q.question, q.context) for q in asked.questions] + [(long.question, long.context * 20)]
    process = subprocess.run([node, SCRIPT, page], input=json.dumps(pairs), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    ask = pipeline("question-answering", model=folder)
    for answer, (question, context) in zip(json.loads(process.stdout), pairs, strict=True):
        candidates = ask(question=question, context=context, top_k=10)
        scores = {(each["start"], each["end"], each["answer"]): each["score"] for each in candidates}
        score = scores[answer["start"], answer["end"], answer["answer"]]
        # Weights are float16 there: of candidates that are nearly equal either may be the first.
        assert answer["score"] == pytest.approx(score, abs=1e-3) and score > candidates[0]["score"] - 1e-3


def test_a_tokenizer_with_other_words_is_refused(roberta, tmp_path):
    with pytest.raises(InputError, match="the live page requires BertPreTokenizer, not ByteLevel"):
        live.make(tmp_path / "live", str(roberta))
    assert not (tmp_path / "live").exists()
