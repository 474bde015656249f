"""ONNX: what is written is opened by onnxruntime alone and gives the logits of torch."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from qalib import qa
from qalib.cli import app
from qalib.model import checkpoint
from qalib.runtimes.export import onnx_folder, onnx_graph
from qalib.runtimes.peers.session import Session
from qalib.runtimes.registry import not_installed
from qalib.utils.errors import InputError

if absent := not_installed(*onnx_graph.PACKAGES)():
    pytest.skip(absent, allow_module_level=True)

import onnxruntime  # noqa: E402

QUESTIONS = 120  # of SQuAD's dev
FURTHER_OFF = 2.0  # points of F1, of so few questions

ALONE = """
import json, sys
sys.modules.update(torch=None, qalib=None)  # importing them fails
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
found = session.run(None, {name: np.array(value) for name, value in json.load(sys.stdin).items()})
print(json.dumps({
    "inputs": [[i.name, i.type, i.shape] for i in session.get_inputs()],
    "outputs": [[o.name, o.type, o.shape] for o in session.get_outputs()],
    "logits": [logits.tolist() for logits in found],
}))
"""


def alone(graph, inputs):
    """What a process without torch reads from a graph, and the logits it computes."""
    given = json.dumps({name: value.tolist() for name, value in inputs.items()})
    done = subprocess.run([sys.executable, "-c", ALONE, graph], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def graph(packed_folder, tmp_path_factory):
    """The dense graph of the tiny model."""
    return onnx_graph.write(checkpoint.load(packed_folder).model, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.parametrize(
    "options, name, most",
    [([], "model.onnx", 1e-4), (["--compact"], "model.onnx", 1e-4), (["--int8"], "model_quantized.onnx", 1.0)],
    ids=["dense", "compact", "int8"],
)
def test_export(graph, sparse, packed_folder, tmp_path, options, name, most):
    out = tmp_path / "out"
    command = ["export", "--format", "onnx", "--model", str(packed_folder), "--out", str(out), *options]
    said = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert f"opset {onnx_graph.OPSET}, logits differ" in said
    assert [path.name for path in (out / "onnx").iterdir()] == [name]
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {path.name for path in out.iterdir()}

    ids = torch.arange(2, 36).reshape(2, 17)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    inputs["attention_mask"][1, 5:] = 0
    found = alone(out / "onnx" / name, inputs)
    axes = ["batch_size", "sequence_length"]
    assert found["inputs"] == [[name, "tensor(int64)", axes] for name in inputs]
    assert found["outputs"] == [[name, "tensor(float)", axes] for name in ("start_logits", "end_logits")]
    with torch.inference_mode():
        expected = onnx_graph.Logits(sparse.model)(*inputs.values())
    for theirs, ours in zip(found["logits"], expected, strict=True):
        assert (torch.tensor(theirs) - ours)[inputs["attention_mask"].bool()].abs().max() < most
    assert ((out / "onnx" / name).stat().st_size < graph.stat().st_size) == bool(options)


@pytest.mark.parametrize("cut", [False, True])
def test_a_bias_by_relative_position(cut, mpnet, tmp_path):
    """At lengths other than the one it was traced with, and beyond the largest distance."""
    loaded = checkpoint.load(mpnet)
    loaded.model.bert.encoder.layer[0].attention.self.value.weight.data[:16] = 0  # of head 0
    path, differs = onnx_folder.save(loaded, tmp_path / "out", cut)
    assert differs < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(onnx_graph.INPUTS)
    for length in (1, 16, 33, 129, 512):
        ids = torch.randint(3, 60, (2, length), generator=torch.Generator().manual_seed(length))
        mask = torch.ones_like(ids)
        mask[1, (length + 1) // 2 :], ids[1, (length + 1) // 2 :] = 0, 1
        inputs = dict(zip(onnx_graph.INPUTS, (ids, mask, torch.zeros_like(ids)), strict=True))
        with torch.inference_mode():
            expected = onnx_graph.Logits(loaded.model)(*inputs.values())
        logits = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for theirs, ours in zip(logits, expected, strict=True):
            assert (torch.from_numpy(theirs) - ours)[mask == 1].abs().max() < 1e-4


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The graphs of the bundled model, by kind."""
    place = tmp_path_factory.mktemp("bundled")
    kinds = {"dense": {}, "compact": {"cut": True}, "int8": {"int8": True}}
    return {kind: onnx_folder.save(checkpoint.load("bundled"), place / kind, **how)[0] for kind, how in kinds.items()}


@pytest.mark.parametrize("kind, most", [("dense", 1e-4), ("compact", 1e-4), ("int8", 1.0)])
def test_the_bundled_model_needs_onnxruntime_alone(bundled, kind, most):
    loaded = checkpoint.load("bundled")
    question, context = (
        "Where does the tower stand?",
        "The Eiffel Tower stands in Paris, where Gustave Eiffel built it.",
    )
    inputs = loaded.tokenizer(question, context, return_tensors="pt")
    found = alone(bundled[kind], {name: inputs[name] for name in onnx_graph.INPUTS})["logits"]
    with torch.inference_mode():
        expected = onnx_graph.Logits(loaded.model)(*(inputs[name] for name in onnx_graph.INPUTS))
    for theirs, ours in zip(found, expected, strict=True):
        assert (torch.tensor(theirs) - ours).abs().max() < most and torch.tensor(theirs).argmax() == ours.argmax()


def test_int8_answers_nearly_as_well(bundled, shared):
    asked, loaded = (
        qa.load_questions(str(shared / "squad" / "dev-v1.1.json")).first(QUESTIONS),
        checkpoint.load("bundled"),
    )
    session = onnxruntime.InferenceSession(bundled["int8"], providers=["CPUExecutionProvider"])
    modules = (Session(lambda values: session.run(None, values)), loaded.model)
    int8, plain = (qa.evaluate(module, loaded.tokenizer, asked).score for module in modules)
    assert plain.f1 > 70 and abs(int8.f1 - plain.f1) < FURTHER_OFF, f"F1 {int8.f1:.2f} in int8, {plain.f1:.2f} in fp32"


def test_a_graph_with_other_logits_is_refused(graph, sparse, dense_folder):
    assert onnx_graph.check(graph, sparse.model) < 1e-4
    with pytest.raises(InputError, match=r"model.onnx: a logit differs by .* from torch's, expected 0.0001 at most"):
        onnx_graph.check(graph, checkpoint.load(dense_folder).model)


def test_options_of_other_formats_and_missing_packages_are_errors(sparse, tmp_path, monkeypatch):
    said = CliRunner().invoke(app, ["export", "--out", str(tmp_path / "out"), "--int8"])
    assert isinstance(said.exception, InputError) and "compact and int8 are for onnx" in str(said.exception)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="export to ONNX: not installed: onnx, onnxscript, onnxruntime"):
        onnx_folder.save(sparse, tmp_path / "out")
    assert not (tmp_path / "out").exists()
