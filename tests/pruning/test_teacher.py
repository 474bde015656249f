"""The teacher's logits: asked for once, and shared by runs."""

import errno
import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from transformers import BertForQuestionAnswering

from qalib.model import checkpoint
from qalib.pruning import config, losses, run, teacher
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.progress import Progress
from qalib.pruning.run_folder import RunFolder
from qalib.qa import squad
from qalib.utils.errors import InputError


@pytest.fixture
def asked(monkeypatch):
    """The batches for which a teacher is asked, whether under autocast."""
    asked, original = [], losses.teacher_logits

    def counted(model, batch):
        asked.append(torch.is_autocast_enabled("cpu"))
        return original(model, batch)

    monkeypatch.setattr(teacher, "teacher_logits", counted)
    return asked


def test_a_teacher_is_asked_once_for_each_window(pruning_settings, tmp_path, asked):
    settings = config.PruningConfig(**pruning_settings)
    run.prune(settings)
    assert asked == [False] * 12  # a batch each in the first of two epochs
    run.prune(replace(settings, out=tmp_path / "again", density=0.5))
    assert len(asked) == 12  # another run with the same teacher and windows asks no more
    run.prune(replace(settings, out=tmp_path / "fewer", questions=4))
    assert len(asked) == 13  # other windows


def test_a_disk_without_room_is_an_error_not_a_crash(pruning_settings, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device: '.*/teachers/\w+\.logits'"):
        run.prune(config.PruningConfig(**pruning_settings))


def test_a_teacher_computes_in_the_type_of_the_run(pruning_settings, asked):
    run.prune(config.PruningConfig(**pruning_settings | {"precision": "bf16", "epochs": 0.25}))
    assert asked == [True] * 3


def test_on_a_gpu_the_teacher_is_asked_before_the_first_step(pruning_settings, asked, monkeypatch):
    """In batches of 10, by length; then every step finds its logits, and none has a forward pass of the teacher."""
    monkeypatch.setattr(run, "_asks_first", lambda made: True)
    monkeypatch.setattr(teacher, "BATCH", 10)
    steps, before = [], run.PruningTrainer.compute_loss

    def compute_loss(trainer, *given, **named):
        steps.append(len(asked))
        return before(trainer, *given, **named)

    monkeypatch.setattr(run.PruningTrainer, "compute_loss", compute_loss)
    run.prune(config.PruningConfig(**pruning_settings))
    assert len(asked) == 5 and steps == [5] * 24  # 48 windows, then two epochs


@pytest.mark.parametrize(
    ("kind", "settings", "first"),
    [
        ("cuda", {}, True),
        ("cuda", {"epochs": 0.5, "max_hours": 1.0}, True),
        ("cuda", {"epochs": 0.5}, False),  # half of the windows are not seen
        ("cuda", {"alpha": 0.0}, False),
        ("cuda", {"hidden_weight": 1.0}, False),  # comes with logits at each step
        ("cpu", {}, False),
    ],
)
def test_who_asks_the_teacher_first(pruning_settings, kind, settings, first):
    args = SimpleNamespace(device=torch.device(kind))
    made = SimpleNamespace(
        config=config.PruningConfig(**pruning_settings | settings), trainer=SimpleNamespace(args=args)
    )
    assert run._asks_first(made) == first


def test_processes_share_the_windows_and_what_is_known_is_not_asked_again(pruning_settings, asked, tmp_path):
    cfg = config.PruningConfig(**pruning_settings)
    made = run.build(cfg, RunFolder(tmp_path / "run"), Progress(False))
    cache, cpu = made.trainer.teacher, torch.device("cpu")
    cache.fill(cpu, 1, 2)
    assert cache.known.sum() == 24
    cache.fill(cpu, 0, 1)
    assert cache.known.all() and len(asked) == 2
    cache.fill(cpu)
    assert len(asked) == 2
    batch = made.trainer.train_dataset.collate(range(7))
    expected = losses.teacher_logits(made.teacher.model, batch)
    seen = batch["attention_mask"][:, None].expand(-1, 2, -1) == 1
    assert (cache(batch) - expected)[seen].abs().max() < 1e-2  # stored in fp16


def test_the_numbers_of_windows_stay_on_the_cpu(pruning_settings, tmp_path):
    """Read from a GPU at every step they would make it wait."""
    made = run.build(config.PruningConfig(**pruning_settings), RunFolder(tmp_path / "run"), Progress(False))
    batch = next(iter(made.trainer.get_train_dataloader()))
    moved = send_to_device(batch, torch.device("meta"))
    assert isinstance(moved["index"], np.ndarray) and moved["input_ids"].device.type == "meta"
    assert isinstance(made.trainer._prepare_inputs(batch)["index"], np.ndarray)


def test_hidden_states_are_learnt(pruning_settings, dense_folder, tmp_path):
    """A pruned student comes closer to its teacher's hidden states than one that learns from logits alone."""
    student = tmp_path / "student"
    run.prune(config.PruningConfig(**pruning_settings | {"out": student, "method": "magnitude", "density": 0.4}))
    left = {}
    for weight in (0.0, 5.0):
        settings = {"student": str(student), "method": "fixed-mask", "epochs": 4, "hidden_weight": weight}
        out = tmp_path / f"weight-{weight}"
        run.prune(config.PruningConfig(**pruning_settings | settings | {"out": out}))
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert ("hidden_loss" in lines[-1]) == bool(weight)
        models = [checkpoint.load(str(folder)) for folder in (out, dense_folder)]
        batch = SquadDataset(squad.load(pruning_settings["data"]).questions, models[0].tokenizer).collate(range(8))
        (_, mine), (_, theirs) = (losses.teacher_outputs(made.model.eval(), batch) for made in models)
        left[weight] = losses.hidden_loss(mine, theirs, batch["attention_mask"]).item()
    assert 0 < left[5.0] < 0.8 * left[0.0]


def test_hidden_states_want_the_teachers_layers(pruning_settings, dense_folder, tmp_path):
    short = shutil.copytree(dense_folder, tmp_path / "short")
    BertForQuestionAnswering.from_pretrained(dense_folder, num_hidden_layers=1).save_pretrained(short)
    settings = pruning_settings | {"student": str(short), "hidden_weight": 1.0}
    with pytest.raises(InputError, match=r"hidden_weight: tiny has 2 layers of width 64, short 1 layers of width 64"):
        run.prune(config.PruningConfig(**settings))
    with pytest.raises(InputError, match="hidden_weight -1: must be 0 or above"):
        config.PruningConfig(**pruning_settings | {"hidden_weight": -1})
