"""The block-sparse GPU runtime, without a GPU: its logic here, its kernel in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from qalib import runtimes
from qalib.model import blocks
from qalib.runtimes.gpu import block_sparse as block_sparse_gpu
from qalib.runtimes.gpu import panels, tuning
from qalib.runtimes.gpu.block_sparse import ByTokens, DenseLinear, fastest_linear
from qalib.runtimes.gpu.panels import PanelLinear, Tile, merge, pack, tiles
from qalib.utils.errors import InputError
from qalib.utils.files import read_json

BLOCK = (32, 32)


def test_the_kernel_in_the_interpreter():
    if panels.unavailable_reason():
        pytest.skip(panels.unavailable_reason())
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # it must be there before triton is imported
    file = ROOT / "tests" / "runtimes" / "interpreted.py"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(file)]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_merged_rows_need_all_their_columns(density, rows):
    kept = torch.rand((13, 9), generator=torch.Generator().manual_seed(rows)) < density
    kept[4] = False
    groups = merge(kept, rows)
    assert sorted(row for group, _ in groups for row in group) == list(range(13)) and len(groups) == -(-13 // rows)
    for group, union in groups:
        assert torch.equal(union, kept[group].any(0).nonzero()[:, 0])
    steps = [len(union) for _, union in groups]
    assert rows > 1 or steps == sorted(steps, reverse=True)


def test_rows_that_share_columns_are_merged():
    kept = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0]]).bool()
    assert [(group, union.tolist()) for group, union in merge(kept, 2)] == [([0, 2], [0, 1]), ([1, 3], [2, 3])]


@pytest.mark.parametrize("block", [(16, 32), (32, 16), (64, 64)])
@pytest.mark.parametrize(("rows", "depth"), [(1, 64), (2, 128), (4, 64)])
def test_panels_hold_every_weight_once(block, rows, depth):
    generator = torch.Generator().manual_seed(depth + rows)
    kept = torch.rand((5, 7), generator=generator) < 0.4
    kept[2] = False
    weight = blocks.expand(kept, block) * torch.randn(5 * block[0], 7 * block[1], generator=generator)
    packed = pack(weight, block, rows, depth)
    assert packed.values.shape[1:] == (rows * block[0], depth) and packed.starts[-1] == len(packed.values)
    whole = torch.zeros_like(weight)
    for group, (first, last) in enumerate(zip(packed.starts, packed.starts[1:], strict=False)):
        for panel in range(first, last):
            for place, column in enumerate(packed.columns[panel]):
                for number, row in enumerate(packed.order[group]):
                    part = packed.values[panel][number * block[0] :, place * block[1] :][: block[0], : block[1]]
                    if row >= 0:
                        whole[row * block[0] :, column * block[1] :][: block[0], : block[1]] += part
    assert torch.equal(whole, weight)


@pytest.fixture
def weight():
    """Of 128 outputs and 256 inputs in blocks of 32 x 32, a quarter of them kept."""
    kept = torch.rand((4, 8), generator=torch.Generator().manual_seed(0)) < 0.25
    return torch.randn(128, 256, generator=torch.Generator().manual_seed(1)) * blocks.expand(kept, BLOCK)


class Timed(PanelLinear):
    """A stand-in that computes without Triton, but for sizes that fail or go wrong."""

    broken = {}

    def forward(self, x, out=None):
        whole = torch.zeros(self.outputs, self.inputs)
        height, width = self.block
        for group, (first, last) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            for panel in range(first, last):
                for place, column in enumerate(self.columns[panel]):
                    for number, row in enumerate(self.order[group]):
                        if row >= 0:
                            part = self.values[panel][number * height :, place * width :][:height, :width]
                            whole[row * height :, column * width :][:height, :width] += part
        if error := self.broken.get(self.tile):
            raise error
        y = nn.functional.linear(x, whole, self.bias)
        return nn.functional.gelu(y) if self.gelu else y


@pytest.fixture
def stand(monkeypatch):
    """Two sizes, which compute on the CPU."""
    sizes = [Tile(64, 1, 64, 4, 4), Tile(128, 2, 128, 4, 4)]
    monkeypatch.setattr(block_sparse_gpu, "PanelLinear", Timed)
    monkeypatch.setattr(panels, "tiles", lambda block, dtype: sizes)
    monkeypatch.setattr(Timed, "broken", {})
    return sizes


def by_size(sizes, times, dense=2.0):
    """A clock: milliseconds by number of tokens and size."""
    return lambda layer, x: times[len(x), sizes.index(layer.tile)] if hasattr(layer, "tile") else dense


def test_the_fastest_way_for_each_number_of_tokens(weight, stand, tmp_path):
    times = {(10, 0): 1.0, (10, 1): 1.5, (100, 0): 1.5, (100, 1): 1.0, (1000, 0): 3.0, (1000, 1): 4.0}
    how = {"time": by_size(stand, times), "table": tmp_path / "table.json", "tokens": (10, 100, 1000)}
    layer = fastest_linear(weight, torch.ones(128), BLOCK, True, **how)
    assert [getattr(part, "tile", "dense") for part in layer.layers] == [*stand, "dense"]
    for tokens, chosen in ((1, 0), (25, 0), (40, 1), (300, 1), (400, 2), (5000, 2)):
        x = torch.randn(tokens, 256)
        assert torch.allclose(layer(x), nn.functional.gelu(x @ weight.T + 1), atol=1e-4)
        assert layer.nearest(tokens) is layer.layers[chosen]


def test_sizes_are_kept_in_a_table_and_shared_by_a_kind(weight, stand, tmp_path):
    calls, table = [], tmp_path / "kept" / "table.json"

    def time(layer, x):
        calls.append(layer)
        return 1.0 + hasattr(layer, "tile") * (-0.5)

    how = {"time": time, "table": table, "tokens": (10,)}
    first = fastest_linear(weight, torch.ones(128), BLOCK, **how)
    assert first.tile == stand[0] and len(calls) == len(stand) + 2
    key = next(iter(read_json(table)))
    assert "no GPU" in key and "float32, 32x32, to 512x512" in key and key.endswith("10 tokens")
    calls.clear()
    assert fastest_linear(weight.flip(0), torch.ones(128), BLOCK, **how).tile == stand[0] and len(calls) == 2
    fastest_linear(weight, torch.ones(128), BLOCK, True, **how)  # with GELU it is another kernel
    assert len(calls) > 4 and len(read_json(table)) == 2


def test_sizes_that_fail_are_left_out_and_told(weight, stand, tmp_path):
    Timed.broken[stand[0]] = RuntimeError("out of resources:\nshared memory")
    how = {"time": lambda layer, x: 1.0 + (not hasattr(layer, "tile")), "table": tmp_path / "t.json", "tokens": (10,)}
    with pytest.warns(UserWarning, match="size 64x1x64x4x4 is left out: RuntimeError: out of resources: shared memory"):
        assert fastest_linear(weight, torch.ones(128), BLOCK, **how).tile == stand[1]
    Timed.broken[stand[1]] = MemoryError("none left")
    (tmp_path / "t.json").unlink()
    with pytest.warns(UserWarning, match="128x2x128x4x4 is left out: MemoryError: none left"):
        assert isinstance(fastest_linear(weight, torch.ones(128), BLOCK, **how), DenseLinear)
    assert not (tmp_path / "t.json").exists()  # it may work another time


def test_sizes_that_compute_something_else_are_left_out():
    x = torch.randn(4, 8)
    layers = {"right": nn.Identity(), "wrong": nn.Threshold(0.0, 0.0), "none": nn.Threshold(1e9, torch.nan)}
    with pytest.warns(UserWarning, match="differs from dense by") as told:
        found = tuning.fastest(layers.get, layers, x, x.double(), lambda layer, x: -len(str(layer)))
    assert found == "right" and len(told) == 2


def test_fuller_matrices_are_dense_and_not_timed(weight):
    def time(layer, x):
        raise AssertionError("timed")

    kept = torch.ones(4, 8).bool()
    kept[0, :4] = False
    layer = fastest_linear(torch.ones(128, 256) * blocks.expand(kept, BLOCK), torch.ones(128), BLOCK, time=time)
    assert isinstance(layer, DenseLinear)


@pytest.mark.parametrize("block", [(16, 16), (32, 32), (64, 64), (128, 128), (16, 128)])
def test_sizes_fit_the_registers_and_hide_latency(block):
    for tile in tiles(block) + tiles(block, torch.float32):
        assert tile.rows >= 1 and tile.tokens * tile.rows * block[0] <= 128 * 32 * tile.warps
        assert tile.stages >= 4 and tile.depth % block[1] == 0 and tile.depth <= 128


@pytest.mark.parametrize("block", [(8, 8), (32, 8), (48, 16), (16, 256)])
def test_blocks_that_triton_cannot_multiply(block):
    with pytest.raises(InputError, match="powers of two from 16 to 128"):
        PanelLinear(torch.zeros(96, 256), torch.zeros(96), block, False, Tile(64, 1, 64, 4, 4))
    with pytest.raises(InputError, match="powers of two from 16 to 128"):
        fastest_linear(torch.zeros(96, 256), torch.zeros(96), block)


def test_without_triton_or_a_gpu(sparse, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="runtime block-sparse: torch finds no CUDA GPU"):
        runtimes.build("block-sparse", sparse, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(panels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="runtime block-sparse: Triton is not installed; pip install"):
        runtimes.build("block-sparse", sparse, "cuda")
    assert runtimes.unavailable_reason("block-sparse", "cpu") is None


def test_a_gpu_runtime_is_not_for_the_cpu(sparse):
    with pytest.raises(InputError, match="runtime compact-graph: is for cuda, not for cpu"):
        runtimes.build("compact-graph", sparse)


def test_a_module_without_blocks_names_no_kernel():
    assert runtimes.kernel(nn.Linear(1, 1)) == ""


def test_layers_by_tokens_are_one_where_all_are_alike(weight, stand, tmp_path):
    how = {"time": lambda layer, x: 1.0 + hasattr(layer, "tile"), "table": tmp_path / "t.json"}
    assert isinstance(fastest_linear(weight, torch.ones(128), BLOCK, tokens=(10, 100), **how), DenseLinear)
    assert not isinstance(fastest_linear(weight, torch.ones(128), BLOCK, tokens=(10,), **how), ByTokens)
