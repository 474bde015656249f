"""What `qalib` itself offers: names, imported on first use, that show themselves in a few lines."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys

import pytest

import qalib
from qalib import evaluate, export, load, pipeline
from qalib.qa import squad
from qalib.utils.errors import InputError

NAMES = "load pipeline evaluate prune finetune export PruningConfig FinetuningConfig Results InputError".split()
PACKAGES = [qalib, *(module.name for module in pkgutil.walk_packages(qalib.__path__, "qalib.") if module.ispkg)]


def test_names_are_offered_and_loaded_on_first_use():
    assert {*NAMES, "sparsity", "benchmark"} <= set(dir(qalib))
    check = (
        "import qalib, sys; print('torch' in sys.modules); print(all(callable(getattr(qalib, name)) for name in {}))"
    )
    code = check.format(NAMES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\nTrue\n", done.stderr
    assert callable(qalib.sparsity.summary) and callable(qalib.benchmark.compare)


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_a_package_lists_its_own_names_only(package):
    module = importlib.import_module(package)
    for name in (name for name in dir(module) if not name.startswith("_")):
        value = getattr(module, name)
        if inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value):
            home = value.__name__ if inspect.ismodule(value) else value.__module__
            assert home.startswith("qalib."), f"{package}.{name} is {home}'s"


def test_a_checkpoints_name_is_enough_to_evaluate(packed_folder, asked_file):
    found = evaluate(packed_folder, questions=str(asked_file), progress=False)
    loaded = load(packed_folder)
    assert found.score == evaluate(loaded.model, loaded.tokenizer, squad.load(str(asked_file)), progress=False).score
    with pytest.raises(ValueError, match="needs a tokenizer"):
        evaluate(loaded.model)
    lines = repr(found).splitlines()
    assert (
        len(lines) == 3 and lines[0].startswith("Evaluation on eight.json") and f"F1 {found.score.f1:.2f} %" in lines[1]
    )
    assert len(repr(found.question_set)) < 300


def test_a_pipeline_shows_itself_in_three_lines():
    ask = pipeline(top_k=3)
    assert repr(ask).splitlines() == [
        "question-answering pipeline: minilm-l6-squad-block-sparse",
        f"  on {ask.device}, windows of at most 384 tokens",
        "  options: top_k 3",
    ]
    assert ask._repr_html_().startswith("<div><b>question-answering pipeline: minilm-l6-squad-block-sparse</b><br>on ")
    assert repr(pipeline()).endswith("options: all by default")


def test_export_writes_what_can_be_loaded(packed_folder, tmp_path):
    assert (
        export(packed_folder, tmp_path / "plain") == tmp_path / "plain"
        and load(tmp_path / "plain").format == "transformers"
    )
    assert load(export(load(packed_folder), tmp_path / "packed", "packed", "fp32")).format == "packed"
    for options, message in (
        ({"format": "gguf"}, "choose one of transformers, packed, onnx"),
        ({"int8": True}, "compact and int8 are for onnx"),
    ):
        with pytest.raises(InputError, match=message):
            export(packed_folder, tmp_path / "no", **options)
    assert not (tmp_path / "no").exists()


def test_scripts_are_not_greeted_by_a_librarys_warnings(tmp_path):
    """torchao, which transformers imports where it is installed, warns of what it cannot load."""
    (tmp_path / "torchao.py").write_text("import logging; logging.getLogger('torchao').warning('Failed to load')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for code, warned in (("import torchao", True), ("import qalib, torchao", False)):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert ("Failed to load" in done.stderr) == warned
