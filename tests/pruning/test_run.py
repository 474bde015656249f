"""Whole pruning runs of a tiny model."""

import json

import filelock
import pytest

from qalib.model import bert, blocks, checkpoint
from qalib.pruning import run
from qalib.pruning.callback import PruningCallback
from qalib.pruning.config import PruningConfig
from qalib.pruning.pruner import Pruner
from qalib.qa import evaluation
from qalib.runtimes.cpu.trainable_linear import TrainableBlockSparseLinear
from qalib.utils.errors import InputError


def prune(settings, **changes):
    return run.prune(PruningConfig(**settings | changes), progress=False)


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("density", [0.2, 0.317, 0.5])
def test_a_density_asked_is_a_density_got(pruning_settings, density):
    out = prune(pruning_settings, density=density)
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


def test_two_steps_from_a_sparse_student_reach_the_density(pruning_settings, packed_folder):
    """Most of its blocks are zero, and still have equal scores when the mask is fixed."""
    given = {"teacher": str(packed_folder), "block": (8, 8), "questions": 8, "epochs": 1}
    found = checkpoint.load(prune(pruning_settings, **given, density=0.3))
    assert found.meta["steps"] == 2
    kept = [blocks.mask(m.linear.weight, (8, 8)).float() for m in bert.matrices(found.model)]
    assert 0.3 - 0.003 < sum(k.sum() for k in kept) / sum(k.numel() for k in kept) <= 0.3


def test_a_schedule_by_the_clock(pruning_settings):
    out = prune(pruning_settings, epochs=1000, density=0.3, max_hours=4 / 3600)
    assert checkpoint.load(out).meta["density"] == pytest.approx(0.3, abs=0.005)
    assert log(out)[-1]["seconds"] < 8


def test_hybrid_magnitude_and_scores(pruning_settings):
    scored = {"eval_data": pruning_settings["data"], "eval_questions": 4}
    out = prune(pruning_settings, **scored, epochs=0.5, density=0.3, ffn="hybrid", method="magnitude")
    first, last = log(out)[0], log(out)[-1]
    assert (last["step"], 0 <= last["f1"] <= 100) == (6, True)
    assert first["density"] == pytest.approx(0.3, abs=0.01)
    scores = checkpoint.load(out).meta["scores"]
    assert scores["data"]["questions"] == 4 and 0 <= scores["teacher"]["f1"] <= 100 and scores["model"]["f1"] >= 0
    assert first["densities"]["0 FFN in"] == first["densities"]["0 FFN out"]
    assert "densities" not in last  # a mask by magnitude is made once: what doesn't change is written once


def test_a_model_that_learnt_from_questions_without_an_answer_says_so(pruning_settings, unanswerable_file):
    given = {"data": str(unanswerable_file), "eval_data": str(unanswerable_file)}
    found = checkpoint.load(prune(pruning_settings, **given, epochs=1))
    assert found.meta["data"]["version"] == "2.0" and found.meta["scores"]["model"].keys() == {"exact_match", "f1"}
    assert evaluation.no_answers(found).no_answer_training == "yes, on twelve.json (SQuAD v2.0)"


def test_what_was_pruned_stays_pruned_and_the_rest_trains_on(pruning_settings, tmp_path):
    first = prune(pruning_settings, density=0.3, ffn="hybrid")
    out = prune(pruning_settings, student=str(first), out=tmp_path / "again", method="fixed-mask")
    before, after = checkpoint.load(first), checkpoint.load(out)
    assert log(out)[-1]["density"] == log(out)[-1]["steered_density"] == pytest.approx(after.meta["density"], abs=1e-5)
    for old, new in zip(bert.matrices(before.model), bert.matrices(after.model), strict=True):
        old, new = old.linear.weight, new.linear.weight
        assert not (blocks.mask(new, (4, 4)) & ~blocks.mask(old, (4, 4))).any() and not (old == new).all()
    assert after.meta["student"]["sha256"] == before.sha256 and after.meta["student"]["made_by"] == before.meta
    assert after.meta["method"] == "movement" and after.meta["windows_seen"] == 2 * before.meta["windows_seen"]
    assert [line["step"] for line in log(out)] == list(range(1, 49))  # 24 steps, and 24 more


@pytest.fixture
def fixed(pruning_settings, tmp_path):
    """Settings of a run under the fixed mask of a student pruned before, of which heads and neurons can go."""
    first = prune(pruning_settings, density=0.3, ffn="hybrid", epochs=1)
    return pruning_settings | {"student": str(first), "method": "fixed-mask", "out": tmp_path / "again"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_blocks_alone_learn_what_they_learn_in_whole_matrices(fixed, tmp_path, monkeypatch, precision):
    sparse = prune(fixed, precision=precision, hidden_weight=0.1)
    with monkeypatch.context() as dense:
        dense.setattr(Pruner, "_drop_pruned", lambda self: None)
        whole = prune(fixed, precision=precision, hidden_weight=0.1, out=tmp_path / "whole")
    # In bf16 more than rounding is allowed: about one in twenty equal runs differed from the second step on, which 220
    # further runs did not show. One bit is enough, as Adam's first step is the learning rate whatever the gradient.
    room = 2e-4 if precision == "fp32" else 2e-2
    for ours, theirs in zip(log(sparse), log(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=room)
        assert ours.get("densities") == theirs.get("densities") and ours["density"] == theirs["density"]
    for one, other in zip(*(bert.matrices(checkpoint.load(out).model) for out in (sparse, whole)), strict=True):
        assert (one.linear.weight - other.linear.weight).norm() < room * other.linear.weight.norm()


def test_what_multiplies_kept_blocks_is_told(fixed, monkeypatch, capsys):
    monkeypatch.setattr(TrainableBlockSparseLinear, "instructions", lambda self, x: "torch")
    run.prune(PruningConfig(**fixed | {"epochs": 0.25}))
    assert "; kept blocks by torch\n" in capsys.readouterr().err


def test_states_exist_for_kept_blocks_only(fixed):
    trained = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "save", trained.append)
        prune(fixed, epochs=0.25)
    trainer, kept = trained[0].trainer, 0
    for matrix in bert.matrices(trainer.pruner.model):
        kept += (size := int(matrix.linear.kept.sum()))
        states = trainer.optimizer.state[matrix.linear.values]
        assert states["exp_avg"].shape == states["exp_avg_sq"].shape == (size, 4, 4)
    assert kept == pytest.approx(trainer.pruner.density() * sum(trainer.pruner.dense_sizes) / 16)


def test_a_run_under_a_fixed_mask_goes_on_after_a_stop(fixed, tmp_path, monkeypatch):
    uninterrupted = prune(fixed, out=tmp_path / "whole")
    stopped = PruningCallback.on_step_end

    def stop(self, args, state, control, **named):
        stopped(self, args, state, control, **named)
        control.should_save |= state.global_step == 9
        if state.global_step == 13:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PruningCallback, "on_step_end", stop)
        prune(fixed)
    resumed = prune(fixed, resume=True)
    assert [line["loss"] for line in log(resumed)] == [line["loss"] for line in log(uninterrupted)]


def test_a_checkpoint_of_whole_matrices_is_refused(fixed, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(Pruner, "_drop_pruned", lambda self: None)
        earlier.setattr(run, "save", lambda run: None)
        prune(fixed, epochs=0.5)
    with pytest.raises(InputError, match="must hold the weights of kept blocks only if the mask is fixed"):
        prune(fixed, epochs=0.5, resume=True)


NOT_TIMED = "bf16: not timed, as there are no instructions for it here"


@pytest.mark.parametrize(
    ("wanted", "bf16_seconds", "precision", "remark"),
    [
        ("auto", None, "fp32", NOT_TIMED),
        ("auto", 0.5, "bf16", "bf16: 2.00 times as fast as fp32 here (training layer)"),
        ("auto", 2.0, "fp32", "bf16: 0.50 times as fast as fp32 here (training layer)"),
        ("bf16", None, "bf16 (emulated)", NOT_TIMED),
        ("bf16", 0.5, "bf16", "bf16: 2.00 times as fast as fp32 here (training layer)"),
        ("bf16", 2.0, "bf16", "bf16: 0.50 times as fast as fp32 here (training layer); bf16 is the slower type"),
        ("fp32", 0.5, "fp32", "bf16: 2.00 times as fast as fp32 here (training layer); fp32 is the slower type"),
    ],
)
def test_the_type_is_the_faster_one_or_the_one_named(
    pruning_settings, speeds, capsys, wanted, bf16_seconds, precision, remark
):
    speeds(bf16_seconds)
    out = run.prune(PruningConfig(**pruning_settings | {"precision": wanted, "epochs": 0.25}))
    assert checkpoint.load(out).meta["precision"] == precision
    assert {line["precision"] for line in log(out)} == {precision}
    assert f"training in {precision}; {remark}\n" in capsys.readouterr().err


def test_a_resumed_run_keeps_the_type_it_began_with(pruning_settings, speeds, monkeypatch):
    class Interrupted(Exception):
        pass

    def interrupt(*arguments):
        raise Interrupted

    settings = pruning_settings | {"precision": "auto", "epochs": 0.25, "log_steps": 1000}
    speeds(0.5)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(run, "save", interrupt)
        prune(settings)
    speeds(2.0)
    assert checkpoint.load(prune(settings, resume=True)).meta["precision"] == "bf16"
    assert checkpoint.load(prune(settings, out=settings["out"].with_name("new"))).meta["precision"] == "fp32"


def test_a_run_that_fails_gives_its_folder_back(pruning_settings, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("all is full")

    with monkeypatch.context() as broken:
        broken.setattr(run, "train", fail)
        with pytest.raises(MemoryError) as kept:  # and all frames with it, as a notebook keeps the last error
            prune(pruning_settings)
    with pytest.raises(InputError, match="missing.json: no such file"):
        prune(pruning_settings, data="missing.json")
    with filelock.FileLock(f"{tmp_path / 'out'}.run.lock"), pytest.raises(InputError, match="another run is at work"):
        prune(pruning_settings)
    assert prune(pruning_settings, epochs=0.25).exists()  # with other settings, since nothing was trained
    assert kept.traceback


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block": (5, 4)}, "blocks of 5x4 do not divide bert.encoder.layer.0.attention.self.query of 64x64"),
        ({"data": "missing.json"}, "missing.json: no such file"),
    ],
)
def test_refusals(pruning_settings, wrong, message):
    with pytest.raises(InputError, match=message):
        prune(pruning_settings, **wrong)


def test_a_folder_that_holds_something_is_not_written_to(pruning_settings):
    pruning_settings["out"].mkdir()
    (pruning_settings["out"] / "thesis.txt").write_text("all I have")
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        prune(pruning_settings)
