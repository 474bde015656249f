"""The order of training."""

import numpy as np

from qalib.pruning.sampler import LengthGroupedSampler

LENGTHS = np.random.default_rng(0).integers(10, 300, 100)


def test_an_order_that_does_not_depend_on_the_processes():
    order = LengthGroupedSampler(LENGTHS, 8, seed=0)
    first = list(order)
    assert sorted(first) == list(range(100))
    assert first == list(LengthGroupedSampler(LENGTHS, 8, seed=0))
    assert max(LENGTHS[first[i : i + 8]].max() - LENGTHS[first[i : i + 8]].min() for i in range(0, 96, 8)) < 60
    order.set_epoch(1)
    assert list(order) != first


def test_batches_go_on_from_epoch_to_epoch():
    order = LengthGroupedSampler(LENGTHS, 8, seed=0)
    batches = list(order.batches(25))
    assert {len(batch) for batch in batches} == {8}
    seen = [index for batch in batches for index in batch]
    order.set_epoch(0)
    assert seen[:100] == list(order)
    order.set_epoch(1)
    assert seen[100:] == list(order)
