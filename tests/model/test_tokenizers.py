"""Tokenizers that cannot be used are refused in one line, whichever file is to blame."""

import shutil

import pytest

from qalib import pipeline
from qalib.cli import commands
from qalib.utils.files import read_json, write_json

WORDS = "[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\na\n"


@pytest.fixture
def folder(packed_folder, tmp_path):
    """A copy of the packed checkpoint, its tokenizer with vocab.txt alone."""
    target = tmp_path / "model"
    shutil.copytree(packed_folder, target, ignore=shutil.ignore_patterns("tokenizer.json"))
    (target / "vocab.txt").write_text(WORDS)
    return target


@pytest.mark.parametrize(
    "files, message",
    [
        ({"vocab.txt": ""}, "{folder}: the tokenizer cannot be used: Exception: WordPiece error: Missing [UNK] token"),
        ({"vocab.txt": "a\nb\n"}, "{folder}: the tokenizer cannot be used: Exception: WordPiece error: Missing [UNK]"),
        (
            {"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"}},
            "{folder}: a fast tokenizer is required, found BertJapaneseTokenizer, a slow one; save a fast one",
        ),
        ({"config.json": {"dtype": "os"}}, "{folder}/config.json: not supported: dtype 'os'; supported: a type of tor"),
        ({"config.json": {"torch_dtype": 16}}, "{folder}/config.json: not supported: torch_dtype 16; supported: a typ"),
        (
            {"config.json": {"id2label": {"start": 0, "end": 1}}},
            "{folder}/config.json: cannot be read by transformers: ValueError: invalid literal for int()",
        ),
    ],
)
def test_one_line_names_the_file_to_blame(folder, tmp_path, monkeypatch, capsys, files, message):
    for name, content in files.items():
        if isinstance(content, dict):
            write_json(folder / name, read_json(folder / name) | content)
        else:
            (folder / name).write_text(content)
    monkeypatch.setattr("sys.argv", ["qalib", "answer", "Who?", "He.", "--model", str(folder)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    output = capsys.readouterr()
    assert ended.value.code == 2 and output.out == ""
    errors = [line for line in output.err.splitlines() if line.startswith("qalib: ")]
    assert len(errors) == 1 and errors[0].startswith("qalib: " + message.format(folder=folder))


@pytest.mark.parametrize("value", ["float32", "torch.float16", "bfloat16", None])
def test_types_that_files_name(folder, value):
    write_json(folder / "config.json", read_json(folder / "config.json") | {"torch_dtype": value})
    assert pipeline(model=folder)(question="a?", context="a")["answer"] == "a"


def test_a_tokenizer_named_for_the_pipeline_is_checked_too(folder, packed_folder):
    (folder / "vocab.txt").write_text("")
    with pytest.raises(ValueError, match="the tokenizer cannot be used"):
        pipeline(model=packed_folder, tokenizer=folder)
    (folder / "vocab.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 3\n")
    with pytest.raises(ValueError, match="vocab.txt: a Git LFS pointer"):
        pipeline(model=packed_folder, tokenizer=folder)
