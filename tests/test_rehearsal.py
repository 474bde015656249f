import json

import pytest

from qalib.pruning import minimal
from qalib.report import plots
from qalib.utils.errors import InputError


def test_a_rehearsal_prunes_further_and_leaves_the_model_alone(sparse, asked):
    before = sparse.model.qa_outputs.weight.clone()
    seen = minimal.rehearse(sparse, asked, 0.2, steps=20, batch=2, progress=False)
    assert len(seen.log) == len(seen.scores) == len(seen.cuts) == 20
    assert seen.log.density[0] == pytest.approx(0.39, abs=0.02) and seen.log.density.iloc[-1] <= 0.2
    assert seen.log.heads_left[0] == 6 >= seen.log.heads_left.iloc[-1]  # two of eight have no values or queries
    assert seen.log.loss.notna().all() and (sparse.model.qa_outputs.weight == before).all()
    again = minimal.rehearse(sparse, asked, 0.2, steps=20, batch=2, progress=False)
    assert again.log.equals(seen.log)
    assert plots.training.rehearsal(seen.log).axes and plots.training.scores(seen.scores, seen.cuts).axes


def test_logs(tmp_path):
    assert plots.training.read_log(tmp_path) is None
    line = {"step": 10, "windows": 160, "answer_loss": 1.0, "distillation_loss": 1.0, "density": 0.9,
            "steered_density": 0.8, "densities": {"0 query": 0.9, "0 FFN in": 1.0}}  # fmt: skip
    lines = [line, line | {"step": 20, "windows": 320}, {"step": 20, "windows": 320, "f1": 70.0, "exact_match": 60.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    log = plots.training.read_log(tmp_path)
    assert len(log) == 3 and log.f1.dropna().tolist() == [70.0]
    assert len(plots.training.training(log).axes) == len(plots.training.layers(log).axes) == 2
    (tmp_path / "log.jsonl").write_text("{")
    with pytest.raises(InputError, match="log.jsonl: not a log of JSON lines"):
        plots.training.read_log(tmp_path)
