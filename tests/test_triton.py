"""The block-sparse GPU runtime, without a GPU: its logic here, its kernel in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from qalib import runtimes
from qalib.runtimes import triton_blocks
from qalib.runtimes.triton_blocks import MergedLinear, Tile, fastest, merge, tiles
from qalib.utils.errors import InputError


def test_the_kernel_in_the_interpreter():
    if triton_blocks.unavailable_reason():
        pytest.skip(triton_blocks.unavailable_reason())
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # it must be there before triton is imported
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(ROOT / "tests" / "interpreted.py")]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_merged_rows_hold_every_kept_block_once(density, rows):
    kept = torch.rand((13, 9), generator=torch.Generator().manual_seed(rows)) < density
    kept[4] = False
    starts, columns, slots, order = merge(kept, rows)
    assert sorted(order[order >= 0].tolist()) == list(range(13)) and order.shape == (-(-13 // rows), rows)
    number, found = kept.flatten().cumsum(0).view(kept.shape) - 1, torch.zeros_like(kept)
    for group, (first, last) in enumerate(zip(starts, starts[1:], strict=False)):
        for step in range(first, last):
            there = slots[step] >= 0
            assert there.any()
            block_rows, column = order[group][there], columns[step]
            assert torch.equal(number[block_rows, column], slots[step][there].long())
            assert not found[block_rows, column].any()
            found[block_rows, column] = True
    assert torch.equal(found, kept)
    steps = starts.diff()
    assert rows > 1 or torch.equal(steps, steps.sort(descending=True)[0])


def test_rows_that_share_columns_are_merged():
    kept = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0]]).bool()
    starts, columns, _, order = merge(kept, 2)
    assert order.tolist() == [[0, 2], [1, 3]] and columns.tolist() == [0, 1, 2, 3] and starts.tolist() == [0, 2, 4]


def test_the_fastest_sizes_are_taken():
    taken = {Tile(64, 1, 4, 2): 3.0, Tile(64, 2, 4, 2): 1.0, Tile(64, 4, 4, 2): float("inf")}
    weight = torch.ones(64, 32)

    def make(tile):
        return MergedLinear(weight, weight[:, 0], (32, 32), False, torch.float32, tile)

    found = fastest(make, list(taken), torch.ones(5, 32), lambda linear, x: taken[linear.tile])
    assert found.tile == Tile(64, 2, 4, 2) and found.instructions == "triton 64x2x4x2"


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_sizes_fit_the_registers(side):
    for tile in tiles((side, side)):
        assert tile.rows >= 1 and tile.tokens * tile.rows * side <= 128 * 32 * tile.warps


@pytest.mark.parametrize("block", [(8, 8), (32, 8), (48, 16), (16, 256)])
def test_blocks_that_triton_cannot_multiply(block):
    with pytest.raises(InputError, match="powers of two from 16 to 128"):
        MergedLinear(torch.zeros(96, 256), torch.zeros(96), block, False, torch.float32, Tile(64, 1, 4, 2))


def test_without_triton_or_a_gpu(sparse, monkeypatch):
    with pytest.raises(InputError, match="runtime block-sparse-triton: is for cuda, not for cpu"):
        runtimes.build("block-sparse-triton", sparse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="runtime block-sparse-triton: torch finds no CUDA GPU"):
        runtimes.build("block-sparse-triton", sparse, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton_blocks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="runtime block-sparse-triton: Triton is not installed; pip install"):
        runtimes.build("block-sparse-triton", sparse, "cuda")


def test_a_module_without_blocks_names_no_kernel():
    assert runtimes.kernel(nn.Linear(1, 1)) == ""
