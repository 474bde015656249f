"""What is for a GPU, without one: what is handed to torch's kernel and to the library pytorch_block_sparse."""

import functools
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from qalib import runtimes
from qalib.model import bert, blocks, checkpoint
from qalib.runtimes import bsr, compact, compiled, pytorch_block_sparse
from qalib.utils.errors import InputError


@pytest.fixture(scope="module")
def linear():
    """A layer of 96 to 64 in blocks of 32 x 32, one block row of it with nothing kept."""
    layer = nn.Linear(96, 64)
    layer.weight.data *= blocks.expand(torch.tensor([[True, False, True], [False, False, False]]), (32, 32))
    return layer.requires_grad_(False)


@pytest.mark.parametrize("tokens", [(1,), (3, 20), (2, 64), ()])
def test_torch_bsr_takes_whole_tiles_of_tokens(linear, tokens, monkeypatch):
    given = {}

    def addmm(bias, weight, dense, meta):
        given.update(meta, tokens=dense.shape[1])
        return bias + weight.to_dense() @ dense

    monkeypatch.setattr("torch.sparse._triton_ops.bsr_dense_addmm", addmm)
    layer = bsr.BsrLinear(linear, (32, 32))
    layer.meta = bsr.Meta(columns=64, group=2, warps=8, stages=3)
    x = torch.randn(*tokens, 96)
    assert torch.allclose(layer.product(x), linear(x), atol=1e-5)
    assert given["tokens"] % 64 == 0 and given["SPLIT_N"] == given["tokens"] // 64
    assert (given["GROUP_SIZE_ROW"], given["num_warps"], given["num_stages"]) == (2, 8, 3)


def test_torch_bsr_is_tuned_once_for_a_card(linear, tmp_path, monkeypatch):
    tunings = []

    def tune(bias, weight, dense):
        tunings.append((tuple(bias.shape), tuple(weight.shape), tuple(dense.shape)))
        return {"SPLIT_N": 32, "GROUP_SIZE_ROW": 1, "num_warps": 4, "num_stages": 5}

    monkeypatch.setattr("torch.sparse._triton_ops_meta.tune_bsr_dense_addmm", tune)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    layer, table = bsr.BsrLinear(linear, (32, 32)), tmp_path / "kept" / "table.json"
    assert bsr.tuned(layer, table) == bsr.tuned(layer, table) == bsr.Meta(128, 1, 4, 5)
    assert tunings == [((64, 4096), (64, 96), (96, 4096))]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Another")
    bsr.tuned(layer, table)
    assert len(tunings) == 2 and "Card" in table.read_text() and "32x32, float32" in table.read_text()


class BlockSparseMatrix(nn.Module):
    """A stand-in with the library's interface: blocks in row-major order, each transposed, in `(kept * 32, 32)`."""

    def __init__(self, shape, block_mask, data, block_shape):
        super().__init__()
        assert data.dtype == torch.float32 and data.is_contiguous() and block_shape == (32, 32)
        assert data.shape == (32 * int(block_mask.sum()), 32) and block_mask.any()
        tiles = blocks.split(torch.zeros(shape), block_shape).contiguous()
        for (row, column), tile in zip(block_mask.nonzero().tolist(), data.view(-1, 32, 32), strict=True):
            tiles[row, column] = tile.T
        self.register_buffer("dense", blocks.join(tiles))

    def reverse_matmul(self, dense_a, transpose):
        return dense_a @ (self.dense.T if transpose else self.dense)


@pytest.fixture
def library(monkeypatch):
    """The stand-in in place of the library and its compiled part."""
    found = types.SimpleNamespace(BlockSparseMatrix=BlockSparseMatrix)
    monkeypatch.setitem(sys.modules, "pytorch_block_sparse", found)
    monkeypatch.setitem(sys.modules, "block_sparse_native", types.SimpleNamespace())


def test_the_library_is_given_the_kept_blocks(linear, library):
    layer = pytorch_block_sparse.LibraryLinear(linear)
    assert torch.equal(layer.matrix.dense, linear.weight)
    x = torch.randn(2, 5, 96)
    assert torch.allclose(layer(x), functional.linear(x, linear.weight, linear.bias), atol=1e-5)


def test_the_bundled_model_through_the_library(library):
    loaded = checkpoint.load("bundled")
    assert pytorch_block_sparse.unavailable_reason() is None
    model = compact.cut(checkpoint.load("bundled").model, loaded.block)
    bert.layers(model)[0].output.dense.weight.data[:] = 0
    bert.layers(loaded.model)[0].output.dense.weight.data[:] = 0
    pytorch_block_sparse.convert(model, loaded.block)
    kinds = [type(matrix.linear).__name__ for matrix in bert.matrices(model)]
    assert kinds.count("Linear") == 1 and kinds.count("LibraryLinear") == len(kinds) - 1
    inputs = {"input_ids": torch.arange(20)[None] + 1000}
    with torch.inference_mode():
        difference = model.eval()(**inputs).start_logits - loaded.model.eval()(**inputs).start_logits
    assert difference.abs().max() < 1e-3 and runtimes.kernel(model) == "pytorch_block_sparse"


def test_the_library_where_it_is_not_or_cannot_do_it(sparse, library, monkeypatch):
    with pytest.raises(InputError, match=r"float32 in blocks of \(8, 8\); it has float32 and \(32, 32\) only"):
        pytorch_block_sparse.convert(sparse.model, sparse.block)
    with pytest.raises(InputError, match=r"bfloat16 in blocks of \(32, 32\)"):
        pytorch_block_sparse.convert(sparse.model.bfloat16(), (32, 32))
    monkeypatch.setitem(sys.modules, "block_sparse_native", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="runtime pytorch-block-sparse: .* cannot be imported .*block_sparse_native"):
        runtimes.build("pytorch-block-sparse", sparse, "cuda")


def test_dense_compiled(sparse, monkeypatch):
    assert "dense-compiled" not in runtimes.available("cpu")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # no gcc: faster
    compiled.unavailable_reason.cache_clear()
    module, ids = runtimes.build("dense-compiled", sparse), torch.arange(20)[None] + 5
    with torch.inference_mode():
        found = module(input_ids=ids, attention_mask=torch.ones_like(ids))
        dense = sparse.model(input_ids=ids)
    compiled.unavailable_reason.cache_clear()
    assert (found.start_logits - dense.start_logits).abs().max() < 1e-4
    assert (found.end_logits - dense.end_logits).abs().max() < 1e-4


def test_where_torch_cannot_compile(sparse, monkeypatch):
    def fails(*arguments, **named):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(torch, "compile", fails)
    compiled.unavailable_reason.cache_clear()
    with pytest.raises(InputError, match="torch.compile does not work on cpu here: RuntimeError: no compiler found"):
        runtimes.build("dense-compiled", sparse)
    compiled.unavailable_reason.cache_clear()
