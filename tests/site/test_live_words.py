"""The words that the live page finds in a text (web/windows.js, run by Node) are those of the pipeline."""

import json
import random
import shutil
import subprocess

import pytest
from conftest import ROOT

from qalib.model import checkpoint
from qalib.qa.spans import word_spans
from qalib.qa.windows import windows

RUN = """
import { readFileSync } from "fs";
import { words } from "./windows.mjs";
const texts = JSON.parse(readFileSync(0));
console.log(JSON.stringify(texts.map((text) => words(text).map(([start, end]) => text.slice(start, end)))));
"""
# Letters, marks, joiners, a variation selector, a tag, controls that belong to nothing, signs, ideographs, spaces.
CHARACTERS = (
    "abé e\u0301\u0308\u200b\u00ad\u200d\u200c\ufe0f\U0001f5fc東か\u3099-!\u0338 क\u094d\U000e0067\U0001f44bA\ufffd"
)


def words_of_the_pipeline(tokenizer, text):
    spans = {tuple(span) for window in windows(tokenizer, ["q"], [text]) for span in word_spans(window).tolist()}
    return [text[start:end] for start, end in sorted(spans)]


@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
def test_words_and_their_marks(tmp_path):
    generator = random.Random(0)
    texts = ["Jose\u0301.", "Was the café\u200b here?", "\u200bIn São Paulo \u0301 −\u0338x"]
    texts += ["".join(generator.choices(CHARACTERS, k=12)) for _ in range(500)]
    shutil.copy(ROOT / "web" / "windows.js", tmp_path / "windows.mjs")
    (tmp_path / "run.mjs").write_text(RUN)
    node = ["node", tmp_path / "run.mjs"]
    done = subprocess.run(node, input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60)
    tokenizer = checkpoint.load("bundled").tokenizer
    expected = [words_of_the_pipeline(tokenizer, text) for text in texts]
    assert expected[0] == ["Jose\u0301", "."]
    assert json.loads(done.stdout) == expected
