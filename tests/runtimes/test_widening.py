"""Small blocks in AMX's tiles: by a timing, which is stored."""

import pytest
import torch

from qalib.model import blocks
from qalib.runtimes import timings
from qalib.runtimes.cpu import instruction_sets, widening
from qalib.utils.files import read_json

NARROW, WIDE = (1, 4), (32, 32)


@pytest.fixture
def paces(monkeypatch):
    """A function that sets how many times as long a weight takes in narrow blocks."""

    def give(pace):
        monkeypatch.setattr(widening, "pace", lambda *_: pace)

    return give


def chosen(shape, block, density, dtype=torch.bfloat16, instructions=None):
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(*blocks.grid_shape(shape, block), generator=generator) < density
    return widening.widened(blocks.expand(kept, block).float(), block, dtype, instructions)


def test_blocks_are_widened_for_amx_where_that_is_faster(monkeypatch, paces):
    def best(block, dtype):
        return "amx_bf16" if block == (32, 32) and dtype == torch.bfloat16 else "avx512"

    monkeypatch.setattr(instruction_sets, "best", best)
    paces(6.0)
    assert chosen((64, 128), NARROW, 0.2) == WIDE and chosen((64, 128), NARROW, 0.05) == NARROW
    assert chosen((64, 128), NARROW, 0.2, torch.float32) == NARROW and chosen((64, 144), NARROW, 0.2) == NARROW
    assert chosen((64, 128), WIDE, 1) == WIDE
    for dtype in (torch.float32, torch.bfloat16):
        assert chosen((64, 128), NARROW, 0.2, dtype, "amx_int8") == (32, 64)
        assert chosen((64, 128), NARROW, 0.05, dtype, "amx_int8") == NARROW
        assert chosen((64, 96), NARROW, 0.2, dtype, "amx_int8") == NARROW
        assert chosen((64, 128), NARROW, 0.2, dtype, "avx512_vnni") == NARROW
    paces(1.6)
    assert chosen((640, 1280), WIDE, 0.8, torch.float32, "amx_int8") == (32, 64)
    assert chosen((640, 1280), WIDE, 0.1, torch.float32, "amx_int8") == WIDE
    assert chosen((64, 128), NARROW, 0.2) == NARROW  # on a machine whose narrow blocks are quick


@pytest.mark.skipif(bool(instruction_sets.unavailable_reason()), reason="the operator was not compiled")
def test_the_pace_is_timed_and_stored(paces, monkeypatch):
    """With the best instructions of this machine, which need not be AMX."""
    pace = widening.pace
    pace.cache_clear()
    timed = pace(NARROW, WIDE, torch.bfloat16, None, "a machine")
    assert 0.5 < timed < 100 and read_json(widening.TABLE) == {"a machine, 1x4 in 32x32, best, torch.bfloat16": timed}
    times = {NARROW: 2.0, WIDE: 4.0}
    monkeypatch.setattr(timings, "shortest_seconds", lambda layers: times)
    assert pace(NARROW, WIDE, torch.bfloat16, None, "a machine") == timed
    other = pace(NARROW, WIDE, torch.bfloat16, None, "another")  # 2 seconds for 20 % of the weights, 4 for all
    assert other == pytest.approx(2.5, rel=0.1)
    widening.TABLE.write_text('{"a machine, 1x4 in 32x32, best, torch.bfloat16": "fast"}')
    pace.cache_clear()
    assert pace(NARROW, WIDE, torch.bfloat16, None, "a machine") == other
    pace.cache_clear()
