"""One-shot pruning of a tiny model: whole runs by the method obs."""

import pytest
from test_run import log, prune

from qalib.model import bert, blocks, checkpoint


@pytest.fixture
def settings(pruning_settings):
    return pruning_settings | {"method": "obs", "rounds": 4, "density": 0.5}


@pytest.mark.parametrize(("ffn", "block"), [("block", (4, 4)), ("hybrid", (4, 4)), ("block", (1, 4))])
def test_a_density_asked_is_a_density_got(settings, ffn, block):
    out = prune(settings, ffn=ffn, block=block)
    pruned = checkpoint.load(out)
    kept = [blocks.mask(m.linear.weight, block).float() for m in bert.matrices(pruned.model)]
    reached = (sum(k.sum() for k in kept) / sum(k.numel() for k in kept)).item()
    print(reached, pruned.meta["density"], log(out)[-1])
