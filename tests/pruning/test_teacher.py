"""The teacher's logits: asked for once, and shared by runs."""

import errno
import os
from dataclasses import replace

import pytest
import torch

from qalib.pruning import config, losses, run, teacher


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
