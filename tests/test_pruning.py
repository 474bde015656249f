"""Pruning: scores, masks, schedules and losses by hand; whole runs on a tiny model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest
import torch

from qalib.model import bert, blocks, checkpoint
from qalib.pruning import dataset, movement, run_folder, trainer
from qalib.pruning.movement import Mask, Pruner, Scores
from qalib.pruning.schedule import Schedule
from qalib.qa.squad import Question
from qalib.report import plots
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json

TOWNS = ["Adler", "Berlin", "Corvin", "Dover", "Elgin", "Farrow", "Galway", "Hastings"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A SQuAD file of 48 short questions."""
    paragraphs = []
    for number in range(24):
        town, year = TOWNS[number % len(TOWNS)], str(1700 + number)
        context = f"In {year} the town of {town} built lighthouse {number}."
        asked = (("In which year?", year), ("Which town?", town))
        answers = [(text, [{"text": answer, "answer_start": context.index(answer)}]) for text, answer in asked]
        qas = [{"id": f"{number}-{k}", "question": text, "answers": a} for k, (text, a) in enumerate(answers)]
        paragraphs.append({"context": context, "qas": qas})
    path = tmp_path_factory.mktemp("questions") / "towns.json"
    return str(write_json(path, {"version": "1.1", "data": [{"title": "towns", "paragraphs": paragraphs}]}))


@pytest.fixture
def arguments(dense_folder, questions, tmp_path):
    """Arguments of a short run: 48 windows, 12 steps an epoch."""
    return {
        "teacher": str(dense_folder), "student": None, "data": questions, "out": tmp_path / "out", "block": (4, 4),
        "epochs": 2, "batch": 4, "precision": "fp32", "log_steps": 1, "bar": False, "weight_lr": 1e-3,
    }  # fmt: skip


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_mask_of_a_hand_made_case():
    scores = Scores((2, 2), weights=4)
    scores.values.data = torch.tensor([[-3.0, 0.0], [-2.0, 5.0]])
    scores.cut = torch.logit(torch.tensor(0.1)).item()  # -2.197
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert Mask(scores)(torch.ones(4, 4)).tolist() == expected
    assert Mask(scores, transposed=True)(torch.ones(4, 4)).tolist() == torch.tensor(expected).T.tolist()


@pytest.mark.parametrize("cut", [-1.0, 0.5])
def test_gradient_of_a_score(cut):
    """dL/dS = sum over the block of dL/dW' * W, for kept and for pruned blocks; dL/dW is 0 in the pruned ones."""
    torch.manual_seed(0)
    linear, inputs, out = torch.nn.Linear(6, 4, bias=False), torch.randn(5, 6), torch.randn(5, 4)
    weight = linear.weight.detach().clone()
    scores = Scores((2, 2), weights=6)
    scores.values.data = torch.tensor([[0.0, 1.0], [2.0, -2.0]])
    scores.cut = cut
    torch.nn.utils.parametrize.register_parametrization(linear, "weight", Mask(scores))
    (linear(inputs) * out).sum().backward()
    by_hand = out.T @ inputs  # dL/dW'
    assert torch.allclose(scores.values.grad, (blocks.split(by_hand * weight, (2, 3))).sum((2, 3)), atol=1e-5)
    kept = blocks.expand(scores.kept, (2, 3))
    assert torch.allclose(linear.parametrizations.weight.original.grad, by_hand * kept, atol=1e-5)


def test_schedule_at_its_corners():
    schedule = Schedule(0.3, warmup=0.1, rise=0.5, settle=0.7, margin=0.04)
    points = [0, 0.1, 0.3, 0.5, 0.6, 0.7, 1]
    assert [schedule.threshold_at(p) for p in points] == pytest.approx([0, 0, 0.0875, 0.1, 0.1, 0.1, 0.1])
    assert [schedule.density_at(p) for p in points] == pytest.approx([1, 1, 0.3875, 0.3, 0.3, 0.3, 0.3])
    assert [schedule.margin_at(p) for p in points] == pytest.approx([0.04, 0.04, 0.04, 0.04, 0.02, 0, 0])
    assert [schedule.score_rate_at(p) for p in points] == pytest.approx([1, 1, 1, 1, 0.5, 0, 0])
    assert [schedule.weight_rate_at(p) for p in (0, 0.05, 0.1, 0.7, 0.85, 1)] == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


@pytest.mark.parametrize(("density", "cut"), [(1.0, -torch.inf), (0.8, 1.0), (0.75, 1.0), (0.2, 4.0)])
def test_cut_keeps_at_most_the_density(density, cut):
    assert movement.cut_for(torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.ones(4), density) == cut


def test_cut_counts_weights():
    assert movement.cut_for(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([6.0, 2.0, 2.0]), 0.8) == 1.0


def test_regulariser_is_the_mean_sigmoid_over_weights(dense_folder):
    pruner = Pruner(checkpoint.load(dense_folder).model, (4, 4), ffn="rows")
    assert pruner.regulariser().item() == pytest.approx(0.5)
    with torch.no_grad():
        for scores in pruner.scores:
            scores.values.fill_(-30 if scores.values.shape[1] == 1 else 0)
    assert pruner.regulariser().item() == pytest.approx(0.25)  # FFN: half the weights, though not half the scores


def test_distillation_against_float64():
    torch.manual_seed(1)
    student, teacher = torch.randn(3, 2, 7) * 3, torch.randn(3, 2, 7) * 3
    student[:, :, 5:] = teacher[:, :, 5:] = torch.finfo(torch.float32).min  # padding
    expected = 0.0
    rows = [logits[..., :5].reshape(6, 5).double() for logits in (teacher, student)]
    for pair in zip(*rows, strict=True):
        p, q = (torch.exp(row / 2) / torch.exp(row / 2).sum() for row in pair)
        expected += (p * (p.log() - q.log())).sum().item() * 4 / 6
    assert movement.distillation(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert movement.distillation(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_masks_leave_the_model_as_it_was_until_something_is_cut(dense_folder):
    model = checkpoint.load(dense_folder).model
    inputs = {"input_ids": torch.arange(5, 17)[None], "token_type_ids": torch.zeros(1, 12, dtype=torch.long),
              "attention_mask": torch.ones(1, 12, dtype=torch.long)}  # fmt: skip
    before = movement.logits(model, **inputs)
    pruner = Pruner(model, (4, 4)).eval()
    assert torch.equal(pruner(**inputs), before)
    assert pruner.density() == 1


def test_rows_go_with_their_columns(dense_folder):
    pruner = Pruner(checkpoint.load(dense_folder).model, (4, 4), ffn="rows").eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for scores in pruner.scores:
            scores.values.normal_()
    pruner.cut(movement.cut_for(*pruner.flat(), 0.3))
    inputs = {"input_ids": torch.arange(5, 17)[None], "token_type_ids": torch.zeros(1, 12, dtype=torch.long),
              "attention_mask": torch.ones(1, 12, dtype=torch.long)}  # fmt: skip
    before, density, kept = pruner(**inputs), pruner.density(), [s.kept.sum().item() for s in pruner.scores]
    model = pruner.bake()
    assert density == pytest.approx(0.3, abs=0.005)
    assert torch.allclose(movement.logits(model, **inputs), before, atol=1e-5)  # though neurons changed places
    for layer, neurons in zip(bert.layers(model), kept[4::5], strict=True):
        assert (layer.intermediate.dense.weight != 0).any(1).nonzero().flatten().tolist() == list(range(neurons))
        assert (layer.output.dense.weight != 0).any(0).nonzero().flatten().tolist() == list(range(neurons))
        assert bert.neurons_removable(layer).sum() == 128 - neurons


def test_answer_positions(dense_folder, questions):
    tokenizer = checkpoint.load(dense_folder).tokenizer
    context = "In 1700 the town of Adler built lighthouse 0."
    question = Question("a", "", "Which town?", context, ("Adler", "town"), (20, 12))
    data = dataset.TrainingWindows([question], tokenizer)
    (first, last), window = data.positions[0], data.windows[0]
    assert (window.offsets[first - window.first][0], window.offsets[last - window.first][1]) == (20, 25)
    batch = data.batch([0])
    assert batch["input_ids"].shape[1] % 32 == 0
    assert batch["positions"].tolist() == [[first, last]]
    long = Question("b", "", "Which town?", "word " * 600 + "Adler.", ("Adler",), (3000,))
    positions = dataset.TrainingWindows([long], tokenizer).positions
    assert positions[0].tolist() == [0, 0]
    assert (positions[-1] > 0).all()


def test_an_answer_that_is_not_there(dense_folder):
    question = Question("a", "", "Which town?", "In Adler.", ("Adler",), (2,))
    with pytest.raises(InputError, match="question 'a': 'Adler' does not stand at character 2 of its context"):
        dataset.TrainingWindows([question], checkpoint.load(dense_folder).tokenizer)


def test_an_order_that_does_not_depend_on_the_processes():
    lengths = np.random.default_rng(0).integers(10, 300, 100)
    order = dataset.ByLength(lengths, 8, seed=0)
    first = list(order)
    assert sorted(first) == list(range(100))
    assert first == list(dataset.ByLength(lengths, 8, seed=0))
    assert max(lengths[first[i : i + 8]].max() - lengths[first[i : i + 8]].min() for i in range(0, 96, 8)) < 60
    order.set_epoch(1)
    assert list(order) != first


@pytest.mark.parametrize("density", [0.2, 0.317, 0.5])
def test_a_density_asked_is_a_density_got(arguments, density):
    out = trainer.prune(**arguments, density=density)
    found = checkpoint.load(out)
    kept = [blocks.mask(m.linear.weight, (4, 4)).float() for m in bert.matrices(found.model)]
    reached = sum(k.sum() for k in kept) / sum(k.numel() for k in kept)
    assert density - 0.005 <= reached <= density + 1e-6
    assert found.meta["density"] == pytest.approx(reached.item(), abs=1e-6)
    lines = log(out)
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert lines[0]["density"] == 1
    assert all(abs(line["density"] - line["steered_density"]) < 0.035 for line in lines[5:])  # scores differ by then
    assert found.meta["data"]["questions"] == found.meta["data"]["windows"] == 48


def test_a_schedule_by_the_clock(arguments):
    out = trainer.prune(**arguments | {"epochs": 1000}, density=0.3, max_hours=4 / 3600)
    assert checkpoint.load(out).meta["density"] == pytest.approx(0.3, abs=0.005)
    assert log(out)[-1]["seconds"] < 8


def test_rows_and_magnitude(arguments):
    evaluation = {"eval_data": arguments["data"], "eval_questions": 4, "precision": "bf16"}
    out = trainer.prune(**arguments | evaluation | {"epochs": 0.5}, density=0.3, ffn="rows", method="magnitude")
    first, last = log(out)[0], log(out)[-1]
    assert (last["step"], 0 <= last["f1"] <= 100) == (6, True)
    assert first["density"] == pytest.approx(0.3, abs=0.01)
    scores = checkpoint.load(out).meta["scores"]
    assert scores["data"]["questions"] == 4 and 0 <= scores["teacher"]["f1"] <= 100 and scores["model"]["f1"] >= 0
    assert first["densities"]["0 FFN in"] == first["densities"]["0 FFN out"]


def test_what_was_pruned_stays_pruned_and_the_rest_trains_on(arguments, tmp_path):
    first = trainer.prune(**arguments, density=0.3, ffn="rows")
    out = trainer.prune(**arguments | {"student": str(first), "out": tmp_path / "again"}, method="keep")
    before, after = checkpoint.load(first), checkpoint.load(out)
    assert log(out)[-1]["density"] == log(out)[-1]["steered_density"] == pytest.approx(after.meta["density"], abs=1e-5)
    for old, new in zip(bert.matrices(before.model), bert.matrices(after.model), strict=True):
        old, new = old.linear.weight, new.linear.weight
        assert not (blocks.mask(new, (4, 4)) & ~blocks.mask(old, (4, 4))).any() and not torch.equal(old, new)
    assert after.meta["student"]["sha256"] == before.sha256 and after.meta["student"]["made_by"] == before.meta
    assert after.meta["method"] == "movement" and after.meta["windows_seen"] == 2 * before.meta["windows_seen"]
    assert [line["step"] for line in log(out)] == list(range(1, 49))  # 24 steps, and 24 more


def test_runs_are_told_of_as_they_state_themselves(tmp_path):
    meta = {
        "arguments": {"method": "keep"}, "density": 0.3,
        "windows_seen": 150,
        "scores": {"model": {"exact_match": 60.0, "f1": 70.0}, "teacher": {"exact_match": 61.0, "f1": 71.0}},
    }  # fmt: skip
    assert plots.training.read_runs(tmp_path) is None
    write_json(tmp_path / "runs" / "longer.json", meta)
    (row,) = plots.training.read_runs(tmp_path).to_dict("records")
    assert row == {"run": "longer", "method": "keep", "density": 30, "windows": 150, "exact_match": 60, "f1": 70,
                   "teacher_f1": 71}  # fmt: skip
    assert (
        "150" in str(plots.training.read_runs(tmp_path).windows[0])
        and plots.training.runs(plots.training.read_runs(tmp_path)).axes
    )


def test_teacher_is_asked_once_for_each_window(arguments, monkeypatch):
    asked, original = [], movement.logits

    def counted(model, *inputs, **named):
        asked.append(model.training)
        return original(model, *inputs, **named)

    monkeypatch.setattr(movement, "logits", counted)
    trainer.prune(**arguments, density=0.5)
    assert asked.count(False) == 12  # a batch each in the first of two epochs
    assert asked.count(True) == 24


def start(arguments, folder, *launcher):
    script = folder / "run.py"
    plain = {name: str(value) if name == "out" else value for name, value in arguments.items()}
    script.write_text(f"from qalib.pruning import trainer\ntrainer.prune(**{plain!r})\n")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *launcher, str(script)], env=environment)


def test_killed_and_resumed(arguments, tmp_path):
    settings = arguments | {"density": 0.3, "epochs": 40, "save_minutes": 0.01}
    work = tmp_path / "out.run"
    process = start(settings, tmp_path)
    deadline = time.monotonic() + 60
    while run_folder.last_checkpoint(work) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (work / "checkpoint-9999").mkdir()  # as if killed while writing it
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="holds a run already"):
        trainer.prune(**settings)
    with pytest.raises(InputError, match="the run has density 0.3, not 0.4"):
        trainer.prune(**settings | {"density": 0.4}, resume=True)
    with filelock.FileLock(f"{work}.lock"), pytest.raises(InputError, match="another run is at work there"):
        trainer.prune(**settings, resume=True)
    out = trainer.prune(**settings, resume=True)
    meta = read_json(out / "model_meta.json")
    assert meta["steps"] == 480
    assert meta["density"] == pytest.approx(0.3, abs=0.005)
    assert [line["step"] for line in log(out)] == list(range(1, 481))


def test_two_processes_take_the_same_steps(arguments, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = arguments | {"density": 0.3, "epochs": 1, "warmup": 0.4}
    alone = log(trainer.prune(**settings))
    settings |= {"out": tmp_path / "two", "batch": 2}
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    assert start(settings, tmp_path, *launcher).wait(timeout=120) == 0
    together = log(tmp_path / "two")
    assert len(together) == len(alone) == 12
    for name in ("windows", "loss", "answer_loss", "distillation_loss", "weight_lr"):
        assert [line[name] for line in together[:6]] == pytest.approx([line[name] for line in alone[:6]], abs=2e-5)
    assert together[-1]["density"] == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"density": 0.0}, "density 0: must be above 0 and at most 1"),
        ({"block": (5, 4)}, "blocks of 5x4 do not divide bert.encoder.layer.0.attention.self.query of 64x64"),
        ({"ffn": "columns"}, "ffn 'columns': choose one of block, rows"),
        ({"method": "luck"}, "method 'luck': choose one of movement, magnitude"),
        ({"alpha": 1.5}, "alpha 1.5: must be between 0 and 1"),
        ({"rise": 0.01}, "schedule 0.05, 0.01, 0.55: must ascend between 0 and 1"),
        ({"data": "missing.json"}, "missing.json: no such file"),
    ],
)
def test_refusals(arguments, wrong, message):
    with pytest.raises(InputError, match=message):
        trainer.prune(**arguments | wrong)
