"""The live page of models other than the bundled one: its JavaScript in node, without a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from builders import towns

from qalib import pipeline
from qalib.site import live
from qalib.utils.errors import InputError

PLACE = ("start", "end", "answer")
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
    pairs = [(q.question, q.context) for q in asked.questions]
    if name == "mpnet":  # several windows; to the other, words that it never saw are all alike
        pairs.append(("Which town?", " ".join(question.context for question in towns()[::2])))
    process = subprocess.run([node, SCRIPT, page], input=json.dumps(pairs), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    ask = pipeline("question-answering", model=folder)
    for answer, (question, context) in zip(json.loads(process.stdout), pairs, strict=True):
        expected = ask(question=question, context=context)
        assert {name: answer[name] for name in PLACE} == {name: expected[name] for name in PLACE}
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-3)  # weights are float16 there


def test_a_tokenizer_with_other_words_is_refused(roberta, tmp_path):
    with pytest.raises(InputError, match="the live page requires BertPreTokenizer, not ByteLevel"):
        live.make(tmp_path / "live", str(roberta))
    assert not (tmp_path / "live").exists()
