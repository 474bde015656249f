"""Training steps timed side by side, with a tiny model, each in a process of its own."""

import pytest

from qalib.benchmark import training
from qalib.utils.errors import InputError


def test_methods_are_timed_side_by_side(packed_folder):
    table = training.compare([str(packed_folder)], batch=2, length=16, rounds=1, steps=2, progress=False)
    assert table.method.tolist() == ["dense", "fixed-mask", "movement"]
    assert table.density[0] == 1 and 0.3 < table.density[1] <= table.density[2] < 0.5
    assert table.speedup[0] == 1 and (table.windows_per_second == 2 / table.median_seconds).all()
    assert [len(seconds) for seconds in table.round_seconds] == [2, 2, 2]
    assert table.peak_bytes.between(1e8, 1e10).all()


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(InputError, match=r"training .*missing \(dense\): exit code \d+: .*missing"):
        training.compare([str(tmp_path / "missing")], progress=False)
