"""The Triton kernels in Triton's interpreter, on the CPU; test_triton.py runs this with TRITON_INTERPRET=1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from triton.runtime import interpreter

from qalib.model import blocks, checkpoint
from qalib.runtimes import compact
from qalib.runtimes.cpu import block_sparse
from qalib.runtimes.gpu import add_norm
from qalib.runtimes.gpu.add_norm import FusedAddNorm, Size
from qalib.runtimes.gpu.panels import PanelLinear, Tile

HALF = torch.bfloat16
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def mended():
    """Triton's interpreter (3.6 to 3.9) multiplies bf16 as if its bits were integers; here they are numbers. That of
    3.6 makes a number of an array of one, which numpy 2.4 does not do any more."""
    patch, dot = pytest.MonkeyPatch(), interpreter.InterpreterBuilder.create_dot
    lang = interpreter._patch_lang_tensor

    def widened(builder, a, b, *more):
        wide = [
            builder.create_fp_ext(v, interpreter.tl.float32) if v.dtype.scalar == interpreter.tl.bfloat16 else v
            for v in (a, b)
        ]
        return dot(builder, *wide, *more)

    def with_index(tensor, scope):
        lang(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)
    patch.setattr(interpreter, "_patch_lang_tensor", with_index)
    yield
    patch.undo()


def case(grid, block, density, tokens, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand(grid, generator=random) < density
    weight = torch.randn(blocks.expand(kept, block).shape, generator=random) * blocks.expand(kept, block)
    x = torch.randn((tokens, weight.shape[1]), generator=random)
    return weight.to(dtype), torch.randn(len(weight), generator=random), x.to(dtype)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_against_float64(data):
    block = data.draw(st.sampled_from([(32, 32), (16, 16), (64, 64), (16, 32), (64, 16), (32, 64), (16, 128)]))
    grid = (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7)))
    density, tokens = data.draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])), data.draw(st.integers(1, 70))
    dtype, gelu = data.draw(st.sampled_from([torch.float32, HALF])), data.draw(st.booleans())
    depth = max(data.draw(st.sampled_from([64, 128])), block[1])
    tile = Tile(data.draw(st.sampled_from([16, 32, 64])), data.draw(st.sampled_from([1, 2, 4])), depth, 4, 4)
    weight, bias, x = case(grid, block, density, tokens, dtype, data.draw(st.integers(0, 9)))
    around = torch.full((tokens + 2, len(weight)), 7.0, dtype=dtype)
    PanelLinear(weight, bias, block, gelu, tile)(x, around[1:-1])
    expected = functional.linear(x.double(), weight.double(), bias.double())
    expected = functional.gelu(expected) if gelu else expected
    room = torch.finfo(dtype).eps * expected.abs() + 3e-6 * (1 + x.abs().sum(1, keepdim=True).double())
    assert ((around[1:-1].double() - expected).abs() <= room).all()
    assert (around[[0, -1]] == 7).all()


def test_values_that_are_not_numbers_stay_so():
    weight, bias, x = case((1, 1), (32, 32), 1.0, 3, HALF, 0)
    x[1, 0] = torch.nan
    found = PanelLinear(weight, bias, (32, 32), False, Tile(16, 2, 64, 4, 4))(x)
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (HALF, 0.5)])
def test_the_bundled_model_has_the_logits_of_dense(dtype, most):
    loaded = checkpoint.load("bundled")
    model = compact.shrink(checkpoint.load("bundled").model, loaded.block).to(dtype).eval()
    tile = Tile(64, 32, 64, 4, 4)
    model = block_sparse.replace(
        model,
        lambda weight, bias, gelu=False: PanelLinear(weight, bias, loaded.block, gelu, tile),
        normed=lambda norm: FusedAddNorm(norm, Size(4, 4)),
    )
    inputs = {
        "input_ids": torch.arange(40).view(2, 20) + 1000,
        "attention_mask": torch.tensor([[1] * 20, [1] * 11 + [0] * 9]),
    }
    with torch.inference_mode():
        ours, dense = model(**inputs), loaded.model.eval()(**inputs)
    for name in ("start_logits", "end_logits"):
        assert (ours[name].float() - dense[name]).abs().max() < most


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_residual_and_norm_against_float64(data):
    """Widths that are powers of two or not, a last program that is not full, and nothing written outside."""
    dtype = data.draw(st.sampled_from([torch.float32, HALF, torch.float16]))
    width, tokens = data.draw(st.sampled_from([16, 48, 100, 384, 768, 1024])), data.draw(st.integers(1, 13))
    size, in_place = data.draw(st.sampled_from(add_norm.SIZES)), data.draw(st.booleans())
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    norm = torch.nn.LayerNorm(width, eps=data.draw(st.sampled_from([1e-12, 1e-3]))).to(dtype).requires_grad_(False)
    for parameter in norm.parameters():
        parameter.data = torch.randn(width, generator=random).to(dtype)
    around = (torch.randn((tokens + 2, width), generator=random) + 5).to(dtype)  # a mean, next to which sums lose bits
    residual, y = (3 * torch.randn((tokens, width), generator=random)).to(dtype), around[1:-1]
    before, sums = around.clone(), y.double() + residual.double()
    expected = functional.layer_norm(sums, (width,), norm.weight.double(), norm.bias.double(), norm.eps)
    if in_place:
        assert FusedAddNorm(norm, size)(y, residual) is y and torch.equal(around[[0, -1]], before[[0, -1]])
        found = y
    else:
        out = torch.full_like(before, 7)
        found = FusedAddNorm(norm, size)(y, residual, out[1:-1])
        assert torch.equal(around, before) and (out[[0, -1]] == 7).all()
    room = torch.finfo(dtype).eps * expected.abs() + 2e-5 * (1 + norm.weight.double().abs())
    assert ((found.double() - expected).abs() <= room).all()


def test_a_row_that_is_not_a_number_leaves_the_others():
    norm, y = torch.nn.LayerNorm(48).requires_grad_(False), torch.ones(5, 48) * torch.arange(48)
    y[3, 7] = torch.inf
    found = FusedAddNorm(norm, Size(4, 4))(y, torch.zeros(5, 48))
    assert found[3].isnan().any() and found[[0, 1, 2, 4]].isfinite().all()
