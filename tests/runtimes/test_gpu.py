"""What is for a GPU: first its logic without one, then, with the marker `gpu`, kernels and runtimes on one."""

import functools
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from qalib import runtimes
from qalib.model import bert, blocks, checkpoint
from qalib.runtimes import compact
from qalib.runtimes import dense as dense_runtimes
from qalib.runtimes.gpu import add_norm, panels
from qalib.runtimes.gpu.panels import PanelLinear, Tile, tiles
from qalib.runtimes.peers import pytorch_block_sparse
from qalib.utils.errors import InputError
from qalib.utils.files import read_json


@pytest.fixture(scope="module")
def linear():
    """A layer of 96 to 64 in blocks of 32 x 32, one block row of it with nothing kept."""
    layer = nn.Linear(96, 64)
    layer.weight.data *= blocks.expand(torch.tensor([[True, False, True], [False, False, False]]), (32, 32))
    return layer.requires_grad_(False)


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
    model = compact.shrink(checkpoint.load("bundled").model, loaded.block)
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
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # no gcc: faster
    dense_runtimes.compile_unavailable_reason.cache_clear()
    module, ids = runtimes.build("dense-compiled", sparse), torch.arange(20)[None] + 5
    with torch.inference_mode():
        for given in ({}, {"attention_mask": torch.ones_like(ids)}):
            found, dense = module(input_ids=ids, **given), sparse.model(input_ids=ids)
            assert (found.start_logits - dense.start_logits).abs().max() < 1e-4
            assert (found.end_logits - dense.end_logits).abs().max() < 1e-4
    dense_runtimes.compile_unavailable_reason.cache_clear()


def test_where_torch_cannot_compile(sparse, monkeypatch):
    def fails(*arguments, **named):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(torch, "compile", fails)
    dense_runtimes.compile_unavailable_reason.cache_clear()
    with pytest.raises(InputError, match="torch.compile does not work on cpu here: RuntimeError: no compiler found"):
        runtimes.build("dense-compiled", sparse)
    dense_runtimes.compile_unavailable_reason.cache_clear()


# On a GPU.


@pytest.fixture
def cuda():
    """The device; tests that need it are skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA GPU on this machine")
    return torch.device("cuda")


TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
ERROR = {"bf16": 1e-2, "fp32": 2e-5}  # of the norm
SIZES = [("bf16", tile) for tile in tiles((32, 32))] + [("fp32", tile) for tile in tiles((32, 32), torch.float32)]


def case(grid, block, density, dtype, device):
    generator = torch.Generator().manual_seed(grid[0])
    kept = torch.rand(grid, generator=generator) < density
    kept[0] = False
    weight = blocks.expand(kept, block) * torch.randn(blocks.expand(kept, block).shape, generator=generator)
    return weight.to(device, TYPES[dtype]), torch.randn(len(weight), generator=generator).to(device)


def check(make, weight, bias, gelu, dtype, tokens, device):
    """The layer against float64, and that it writes nothing outside its result. A size may want more than there is."""
    layer = make()
    for count in tokens:
        x = torch.randn(count, weight.shape[1], device=device).to(weight.dtype)
        around = torch.full((count + 2, len(weight)), 7.0, dtype=weight.dtype, device=device)
        try:
            layer(x, around[1:-1])
        except Exception as error:
            if type(error).__name__ == "OutOfResources":
                pytest.skip(f"{layer.instructions}: {error}")
            raise
        expected = functional.linear(x.double(), weight.double(), bias.double())
        expected = functional.gelu(expected) if gelu else expected
        assert (around[1:-1] - expected).norm() / expected.norm() < ERROR[dtype], count
        assert (around[[0, -1]] == 7).all(), count


@pytest.mark.gpu
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("dtype", "tile"), SIZES, ids=str)
def test_the_kernel_in_every_size(cuda, dtype, tile, gelu):
    weight, bias = case((24, 24), (32, 32), 0.3, dtype, cuda)
    check(lambda: PanelLinear(weight, bias, (32, 32), gelu, tile), weight, bias, gelu, dtype, (1, 17, 384, 1000), cuda)


@pytest.mark.gpu
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("block", [(16, 16), (64, 64), (128, 128), (16, 32), (64, 16)])
@pytest.mark.parametrize("dtype", TYPES)
def test_the_kernel_with_every_block(cuda, dtype, block, density):
    weight, bias = case((6, 5), block, density, dtype, cuda)
    tile = Tile(64, 1, max(64, block[1]), 4, 4)
    check(lambda: PanelLinear(weight, bias, block, True, tile), weight, bias, True, dtype, (130,), cuda)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [48, 384, 768, 1024])
@pytest.mark.parametrize("size", add_norm.SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp16"])
def test_residual_and_norm_in_every_size(cuda, dtype, size, width):
    kind = {**TYPES, "fp16": torch.float16}[dtype]
    norm = nn.LayerNorm(width, eps=1e-12, device=cuda, dtype=kind).requires_grad_(False)
    norm.weight.data.normal_(), norm.bias.data.normal_()
    for tokens in (1, 17, 384, 1001):
        around = torch.randn(tokens + 2, width, device=cuda).to(kind) + 5
        residual, edges = torch.randn(tokens, width, device=cuda).to(kind), around[[0, -1]].clone()
        sums = around[1:-1].double() + residual.double()
        expected = functional.layer_norm(sums, (width,), norm.weight.double(), norm.bias.double(), norm.eps)
        add_norm.FusedAddNorm(norm, size)(around[1:-1], residual)
        assert (around[1:-1] - expected).norm() / expected.norm() < max(2e-6, torch.finfo(kind).eps), tokens
        assert torch.equal(around[[0, -1]], edges), tokens


@pytest.mark.gpu
def test_the_kernel_for_norms_is_taken_where_it_is_the_faster(cuda, tmp_path):
    if panels.unavailable_reason():
        pytest.skip(panels.unavailable_reason())
    norm = nn.LayerNorm(768, device=cuda, dtype=torch.bfloat16).requires_grad_(False)
    found = add_norm.fastest(norm, table=tmp_path / "t.json")
    assert isinstance(found, add_norm.FusedAddNorm) == bool(next(iter(read_json(tmp_path / "t.json").values())))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
def test_pytorch_block_sparse(cuda, dtype):
    name = "pytorch-block-sparse"
    if (reason := runtimes.unavailable_reason(name, "cuda", dtype)) is not None:
        pytest.skip(reason)
    weight, bias = case((24, 24), (32, 32), 0.3, dtype, cuda)
    dense = nn.Linear(768, 768, device=cuda, dtype=TYPES[dtype]).requires_grad_(False)
    dense.weight.data, dense.bias.data = weight, bias.to(TYPES[dtype])
    layer = pytorch_block_sparse.LibraryLinear(dense)
    for shape in ((3, 50), (1, 1), (2, 384)):
        x = torch.randn(*shape, 768, device=cuda, dtype=TYPES[dtype])
        with torch.inference_mode():
            found = layer(x)
        expected = functional.linear(x.double(), weight.double(), dense.bias.double())
        assert (found - expected).norm() / expected.norm() < 1e-2


ON_GPU = ["compact", "compact-graph", "block-sparse", "dense-compiled"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ON_GPU)
def test_the_bundled_model_has_the_logits_of_dense_on_a_gpu(cuda, name, dtype):
    if (reason := runtimes.unavailable_reason(name, "cuda", dtype)) is not None:
        pytest.skip(reason)
    loaded = checkpoint.load("bundled")
    dense, module = runtimes.build("dense", loaded, cuda), runtimes.build(name, loaded, cuda, dtype)
    for seed, (shape, left) in enumerate((((2, 77), 50), ((2, 96), None), ((2, 90), 3), ((5, 384), None))):
        ids = torch.randint(1000, 20000, shape, generator=torch.Generator().manual_seed(seed)).to(cuda)
        mask = torch.ones_like(ids)
        mask[1, left:] = 0 if left else 1
        given = {"attention_mask": mask} if left else {}
        with torch.inference_mode():
            found, expected = module(input_ids=ids, **given), dense(input_ids=ids, **given)
        for logits in ("start_logits", "end_logits"):
            difference = (found[logits].float() - expected[logits])[mask == 1].abs().max()
            assert difference < {"fp32": 1e-3, "bf16": 0.5}[dtype], (shape, logits)


@pytest.mark.gpu
def test_a_graph_is_captured_once_and_computes_anew(cuda):
    loaded = checkpoint.load("bundled")
    module = runtimes.build("compact-graph", loaded, cuda)
    dense = runtimes.build("dense", loaded, cuda)
    for seed in range(3):
        ids = torch.randint(1000, 20000, (2, 64), generator=torch.Generator().manual_seed(seed)).to(cuda)
        with torch.inference_mode():
            difference = module(input_ids=ids).start_logits - dense(input_ids=ids).start_logits
        assert difference.abs().max() < 1e-3 and len(module.recorded) == 1
