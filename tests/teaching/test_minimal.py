"""A pruning run small enough to watch."""

import pytest
import torch

from qalib import sparsity
from qalib.report import plots
from qalib.teaching.lessons import minimal


def test_a_minimal_run_prunes_further_and_leaves_the_model_alone(sparse, asked):
    before = sparse.model.qa_outputs.weight.clone()
    seen = minimal.prune_minimal(sparse, asked, 0.2, steps=20, batch_size=2, progress=False)
    assert len(seen.log) == len(seen.scores) == len(seen.thresholds) == 20
    assert 0.18 < sparsity.density(seen.pruned) <= 0.2 and not seen.pruned.model.training
    assert seen.log.density[0] == pytest.approx(0.39, abs=0.02) and seen.log.density.iloc[-1] <= 0.2
    assert seen.log.heads_left[0] == 6 >= seen.log.heads_left.iloc[-1]  # two of eight have no values or queries
    assert seen.log.loss.notna().all() and (sparse.model.qa_outputs.weight == before).all()
    again = minimal.prune_minimal(sparse, asked, 0.2, steps=20, batch_size=2, progress=False)
    assert again.log.equals(seen.log)
    assert plots.training.minimal_run(seen.log).axes and plots.training.scores(seen.scores, seen.thresholds).axes


@pytest.mark.parametrize(("bf16_seconds", "lowered"), [(None, False), (2.0, False), (0.5, True)])
def test_it_computes_in_the_faster_type(sparse, asked, monkeypatch, speeds, bf16_seconds, lowered):
    seen, original = [], minimal.training_losses

    def watched(*arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(*arguments)

    monkeypatch.setattr(minimal, "training_losses", watched)
    speeds(bf16_seconds)
    minimal.prune_minimal(sparse, asked, steps=2, batch_size=2, progress=False)
    assert seen == [lowered] * 2
