"""Speed over BERT-base: the same rounds, and ratios that follow from the medians."""

import pytest

from qalib import benchmark, runtimes
from qalib.benchmark import bert_base
from qalib.utils import machine


def test_the_model_and_bert_base_are_timed_in_the_same_rounds(sparse):
    rows = benchmark.over_bert_base(sparse, batch=1, length=8, repeats=2, progress=False)
    assert rows.model.unique().tolist() == [bert_base.BASE, sparse.name]
    assert rows["dtype"].tolist() == 3 * machine.hardware_dtypes("cpu")
    assert (rows.rounds == 2).all() and all(len(seconds) == 2 for seconds in rows.round_seconds)
    base = rows[rows.model == bert_base.BASE]
    assert base.speedup.tolist() == [1.0] * len(base) and base.speedup_over_best.max() == 1
    assert set(rows.best_baseline.str.removesuffix("bf16").str.removesuffix("fp32")) == {f"{bert_base.BASE} "}
    ours = rows[rows.model == sparse.name]
    assert ours.runtime.unique().tolist() == ["dense", runtimes.best("cpu")]  # both of the small model
    assert (ours.speedup > 1).all()  # two narrow layers beside twelve wide ones
    best = base.median_seconds.min() / ours.median_seconds
    assert ours.speedup_over_best.tolist() == pytest.approx(best.tolist())
