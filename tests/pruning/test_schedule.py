"""The schedule's curves."""

import pytest

from qalib.pruning.schedule import Schedule


def test_schedule_at_its_corners():
    schedule = Schedule(0.3, warmup=0.1, ramp_end=0.5, freeze_at=0.7, margin=0.04)
    points = [0, 0.1, 0.3, 0.5, 0.6, 0.7, 1]
    assert [schedule.threshold_at(p) for p in points] == pytest.approx([0, 0, 0.0875, 0.1, 0.1, 0.1, 0.1])
    assert [schedule.density_at(p) for p in points] == pytest.approx([1, 1, 0.3875, 0.3, 0.3, 0.3, 0.3])
    assert [schedule.margin_at(p) for p in points] == pytest.approx([0.04, 0.04, 0.04, 0.04, 0.02, 0, 0])
    assert [schedule.score_lr_factor(p) for p in points] == pytest.approx([1, 1, 1, 1, 0.5, 0, 0])
    weight_lr = [schedule.weight_lr_factor(p) for p in (0, 0.05, 0.1, 0.7, 0.85, 1)]
    assert weight_lr == pytest.approx([0, 0.5, 1, 1, 0.5, 0])
