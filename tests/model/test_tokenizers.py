"""Tokenizers that cannot be used are refused in one line, whichever file is to blame."""

import json
import shutil

import pytest
from reliability import trial

from qalib import pipeline
from qalib.cli import commands
from qalib.utils.files import read_json, write_json

GENERAL = "PreTrainedTokenizerFast"
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


def refused(folder, capfd, question="Who?", context="He is red."):
    """The one line in which `qalib answer` refuses a model; Rust itself prints what it panics about."""
    ended = trial.call("answer", question, context, "--model", folder)
    errors = [line for line in ended.err.splitlines() if line.startswith("qalib: ")]
    capfd.readouterr()
    assert ended.code == 2 and not ended.out and len(errors) == 1
    return errors[0]


def pair(*parts):
    """A tokenizer's form of a pair: CLS and SEP for the special tokens, A for the question, B for the text."""
    tokens = [{"Sequence": {"id": part, "type_id": 0}} if part in "AB" else
              {"SpecialToken": {"id": f"[{part}]", "type_id": 0}} for part in parts]  # fmt: skip
    special = {f"[{name}]": {"id": f"[{name}]", "ids": [number], "tokens": [name]}
               for name, number in (("CLS", 2), ("SEP", 3), ("FAR", 999_999))}  # fmt: skip
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": tokens, "special_tokens": special}


REDOS = {"type": "Split", "pattern": {"Regex": "(.*)*x\\1y"}, "behavior": "Isolated", "invert": False}
FORM = "the tokenizer must encode a pair as [CLS] question [SEP] text [SEP], found "


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"post_processor": pair("CLS", "A", "SEP")}, f"{FORM}special tokens, question, special tokens"),
        ({"post_processor": pair("CLS", "B", "SEP", "A", "SEP")}, f"{FORM}special tokens, text, special tokens, quest"),
        ({"post_processor": pair("CLS", "A", "SEP", "B", "SEP", "B")}, f"{FORM}special tokens, question, special toke"),
        ({"post_processor": None}, f"{FORM}question, text"),
        ({"post_processor": pair("CLS", "A", "FAR", "B", "SEP")}, "the tokenizer has a token 999,999, the model knows"),
        ({"pre_tokenizer": REDOS}, "the tokenizer cannot be used: PanicException: Onig: Regex search error"),
    ],
)
def test_a_hostile_tokenizer_is_refused(packed_folder, tmp_path, capfd, changed, message):
    """transformers takes all of tokenizer.json for this class; for BertTokenizer, little more than the vocabulary."""
    folder = shutil.copytree(packed_folder, tmp_path / "model")
    for name, values in {"tokenizer.json": changed, "tokenizer_config.json": {"tokenizer_class": GENERAL}}.items():
        write_json(folder / name, read_json(folder / name) | values)
    assert refused(folder, capfd, context="ax" * 40 + "b").startswith(f"qalib: {folder}: {message}")


@pytest.mark.parametrize("longest", [100.5, 15, True, float("inf")])
def test_the_longest_window_is_a_whole_number(packed_folder, tmp_path, capfd, longest):
    folder = shutil.copytree(packed_folder, tmp_path / "model")
    settings = read_json(folder / "tokenizer_config.json") | {"model_max_length": longest}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert f"model_max_length is {longest!r}, expected a whole number of at least 16" in refused(folder, capfd)


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
