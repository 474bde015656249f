"""Residual and LayerNorm after a product: which way is taken, without a GPU. Its kernel is in interpreted.py."""

import copy
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from qalib.model import bert
from qalib.runtimes import compact
from qalib.runtimes.cpu.block_sparse import AddNorm
from qalib.runtimes.gpu import add_norm, panels
from qalib.runtimes.gpu import block_sparse as block_sparse_gpu
from qalib.runtimes.gpu.add_norm import SIZES, FusedAddNorm, Size
from qalib.utils.files import read_json


class Stand(FusedAddNorm):
    """Computes without Triton, but for sizes that are broken."""

    broken = ()

    def forward(self, y, residual, out=None):
        if self.size in self.broken:
            raise RuntimeError("no registers")
        found = functional.layer_norm(y + residual, y.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps)
        return (y if out is None else out).copy_(found)


@pytest.fixture
def norm(monkeypatch):
    monkeypatch.setattr(add_norm, "FusedAddNorm", Stand)
    monkeypatch.setattr(panels, "unavailable_reason", lambda: None)
    layer = nn.LayerNorm(48, eps=1e-3).requires_grad_(False)
    layer.weight.data, layer.bias.data = torch.linspace(-2, 2, 48), torch.linspace(1, 3, 48)
    return layer


def clock(fused, plain, best=SIZES[2]):
    """Milliseconds: of the kernel in its best size and others, and of torch's."""

    def time(layer, x):
        size = getattr(layer.layer, "size", None)
        return plain if size is None else fused if size == best else fused + 1

    return time


def test_the_fastest_size_is_taken_and_kept(norm, tmp_path):
    table = tmp_path / "t.json"
    assert add_norm.fastest(norm, clock(1.0, 2.0), table).size == SIZES[2]

    def fails(layer, x):
        raise AssertionError("timed again")

    assert add_norm.fastest(copy.deepcopy(norm), fails, table).size == SIZES[2]
    assert list(read_json(table)) == [f"no GPU, torch {torch.__version__}, float32, norm of 48"]


def test_torchs_is_taken_where_it_is_as_fast(norm, tmp_path):
    for _ in range(2):
        assert type(add_norm.fastest(norm, clock(2.0, 2.0), tmp_path / "t.json")) is AddNorm
    assert list(read_json(tmp_path / "t.json").values()) == [[]]


def test_sizes_that_fail_are_told_and_where_all_do_nothing_is_kept(norm, tmp_path, monkeypatch):
    monkeypatch.setattr(Stand, "broken", SIZES[2:])
    with pytest.warns(UserWarning, match="size 1x4 is left out: RuntimeError: no registers"):
        assert add_norm.fastest(norm, clock(1.0, 2.0, SIZES[1]), tmp_path / "t.json").size == SIZES[1]
    monkeypatch.setattr(Stand, "broken", SIZES)
    with pytest.warns(UserWarning, match="no registers"):
        assert type(add_norm.fastest(norm, clock(1.0, 2.0), tmp_path / "u.json")) is AddNorm
    assert not (tmp_path / "u.json").exists()


def test_a_kernel_that_is_wrong_is_not_taken(norm, tmp_path, monkeypatch):
    monkeypatch.setattr(Stand, "forward", lambda self, y, residual, out=None: y + residual)
    with pytest.warns(UserWarning, match="differs from dense by"):
        assert type(add_norm.fastest(norm, clock(1.0, 2.0), tmp_path / "t.json")) is AddNorm


def test_other_norms_and_machines_without_triton_keep_theirs(norm, monkeypatch):
    other = bert.NoNorm(48)
    assert add_norm.fastest(other).norm is other and type(add_norm.fastest(other)) is AddNorm
    monkeypatch.setattr(panels, "unavailable_reason", lambda: "Triton is not installed")
    assert type(add_norm.fastest(norm)) is AddNorm


@pytest.mark.parametrize("without_norms", [False, True])
def test_a_model_with_the_kernel_has_the_logits_of_dense(sparse, norm, monkeypatch, without_norms):
    """All norms of the encoder go through it; those of a NoNorm model through none."""
    if without_norms:
        bert.replace_layer_norms(sparse.model)
        for module in sparse.model.modules():
            if isinstance(module, bert.NoNorm):
                module.weight.data.uniform_(0.1, 0.3), module.bias.data.uniform_(-1, 1)
    made = []

    def fastest(norm):
        made.append(Stand(norm, Size(1, 1)) if isinstance(norm, nn.LayerNorm) else AddNorm(norm))
        return made[-1]

    monkeypatch.setattr(add_norm, "fastest", fastest)
    small = compact.shrink(copy.deepcopy(sparse.model), sparse.block).eval()
    device = types.SimpleNamespace(type="cuda")
    monkeypatch.setattr(type(small), "device", property(lambda self: device))
    model = block_sparse_gpu.convert(small)
    monkeypatch.undo()
    assert len(made) == 4 and all(isinstance(layer, Stand) != without_norms for layer in made)
    ids = torch.randint(5, 90, (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = model(input_ids=ids), sparse.model.eval()(input_ids=ids)
    assert (found.start_logits - expected.start_logits).abs().max() < 1e-4


def test_the_kernel_is_launched_for_all_rows(monkeypatch):
    """Grid, sizes and what is written to, by a stand-in for the kernel."""
    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *given, num_warps: seen.append((grid, given[4], *given[5:], num_warps))

    kernels = types.SimpleNamespace(add_norm=Kernel())
    monkeypatch.setitem(sys.modules, "qalib.runtimes.gpu.triton_kernel", kernels)
    monkeypatch.setitem(
        sys.modules, "triton", types.SimpleNamespace(next_power_of_2=lambda n: 1 << (n - 1).bit_length())
    )
    y, out = torch.ones(3, 7, 768), torch.zeros(3, 7, 768)
    layer = FusedAddNorm(nn.LayerNorm(768, eps=1e-12), Size(4, 8))
    assert layer(y, y.clone()) is y and layer(y, y, out) is out
    assert [(grid, *rest) for grid, _, *rest in seen] == 2 * [((6,), 21, 768, 1e-12, 4, 1024, 8)]
    assert seen[0][1] is y and seen[1][1] is out and str(layer.size) == "4x8"
