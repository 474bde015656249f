import json

import pytest

from qalib import curves, rehearsal
from qalib.errors import InputError


def test_a_rehearsal_prunes_further_and_leaves_the_model_alone(sparse, asked):
    before = sparse.model.qa_outputs.weight.clone()
    seen = rehearsal.rehearse(sparse, asked, 0.2, steps=20, batch=2, progress=False)
    assert len(seen.log) == len(seen.scores) == len(seen.cuts) == 20
    assert seen.log.density[0] == pytest.approx(0.39, abs=0.02) and seen.log.density.iloc[-1] <= 0.2
    assert seen.log.heads_left[0] == 6 >= seen.log.heads_left.iloc[-1]  # two of eight have no values or queries
    assert seen.log.loss.notna().all() and (sparse.model.qa_outputs.weight == before).all()
    again = rehearsal.rehearse(sparse, asked, 0.2, steps=20, batch=2, progress=False)
    assert again.log.equals(seen.log)
    assert curves.rehearsal(seen.log).axes and curves.scores(seen.scores, seen.cuts).axes


def test_logs(tmp_path):
    assert curves.read_log(tmp_path) is None
    line = {"step": 10, "windows": 160, "answer_loss": 1.0, "distillation_loss": 1.0, "density": 0.9,
            "steered_density": 0.8, "densities": {"0 query": 0.9, "0 FFN in": 1.0}}  # fmt: skip
    lines = [line, line | {"step": 20, "windows": 320}, {"step": 20, "windows": 320, "f1": 70.0, "exact_match": 60.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    log = curves.read_log(tmp_path)
    assert len(log) == 3 and log.f1.dropna().tolist() == [70.0]
    assert len(curves.training(log).axes) == len(curves.layers(log).axes) == 2
    (tmp_path / "log.jsonl").write_text("{")
    with pytest.raises(InputError, match="log.jsonl: not a log of JSON lines"):
        curves.read_log(tmp_path)
