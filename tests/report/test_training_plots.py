"""Figures of pruning runs, and the logs and records that they are drawn from."""

import json

import pytest

from qalib.pruning import history
from qalib.report import plots
from qalib.utils.errors import InputError
from qalib.utils.files import write_json


def test_logs(tmp_path):
    assert history.read_log(tmp_path) is None
    line = {"step": 10, "windows": 160, "answer_loss": 1.0, "distillation_loss": 1.0, "density": 0.9,
            "steered_density": 0.8, "densities": {"0 query": 0.9, "0 FFN in": 1.0}}  # fmt: skip
    same = {key: value for key, value in line.items() if key != "densities"}  # not written where they don't change
    lines = [line, same | {"step": 20, "windows": 320}, {"step": 20, "windows": 320, "f1": 70.0, "exact_match": 60.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    log = history.read_log(tmp_path)
    assert len(log) == 3 and log.f1.dropna().tolist() == [70.0]
    assert len(plots.training.training(log).axes) == len(plots.training.layers(log).axes) == 2
    assert plots.training.layers(log).axes[0].lines[0].get_xdata()[-1] == 0.32
    (tmp_path / "log.jsonl").write_text("{")
    with pytest.raises(InputError, match="log.jsonl: not a log of JSON lines"):
        history.read_log(tmp_path)


def test_runs_are_told_of_as_they_state_themselves(tmp_path):
    meta = {
        "arguments": {"method": "keep"}, "density": 0.3,
        "windows_seen": 150,
        "scores": {"model": {"exact_match": 60.0, "f1": 70.0}, "teacher": {"exact_match": 61.0, "f1": 71.0}},
    }  # fmt: skip
    assert history.read_runs(tmp_path) is None
    write_json(tmp_path / "runs" / "longer.json", meta)
    (row,) = history.read_runs(tmp_path).to_dict("records")
    assert row == {"run": "longer", "method": "fixed-mask", "density": 30, "windows": 150, "exact_match": 60, "f1": 70,
                   "teacher_f1": 71}  # fmt: skip
    write_json(tmp_path / "model_meta.json", {"license": "MIT"})  # of no run
    assert len(history.read_runs(tmp_path)) == 1
    write_json(tmp_path / "model_meta.json", meta | {"density": 1.0})
    own = history.read_runs(tmp_path).iloc[-1]
    assert (own.run, own.method, own.density) == (history.OWN, "dense", 100)
    assert (
        "150" in str(history.read_runs(tmp_path).windows[0]) and plots.training.runs(history.read_runs(tmp_path)).axes
    )
