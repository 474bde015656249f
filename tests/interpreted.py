"""The Triton kernel in Triton's interpreter, on the CPU; test_triton.py runs this with TRITON_INTERPRET=1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from triton.runtime import interpreter

from qalib import runtimes
from qalib.model import blocks, checkpoint
from qalib.runtimes import compact, triton_blocks
from qalib.runtimes.triton_blocks import MergedLinear, Tile

HALF = torch.bfloat16
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def bf16():
    """The interpreter of Triton 3.9 multiplies bf16 as if its bits were integers; here they are numbers."""
    patch, dot = pytest.MonkeyPatch(), interpreter.InterpreterBuilder.create_dot

    def widened(builder, a, b, *more):
        wide = [
            builder.create_fp_ext(v, interpreter.tl.float32) if v.dtype.scalar == interpreter.tl.bfloat16 else v
            for v in (a, b)
        ]
        return dot(builder, *wide, *more)

    patch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)
    yield
    patch.undo()


def case(grid, block, density, tokens, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand(grid, generator=random) < density
    weight = torch.randn(blocks.expand(kept, block).shape, generator=random).to(dtype).float()
    weight *= blocks.expand(kept, block)
    x = torch.randn((tokens, weight.shape[1]), generator=random).to(dtype)
    return weight, torch.randn(len(weight), generator=random), x


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_against_float64(data):
    block = data.draw(st.sampled_from([(32, 32), (16, 16), (64, 64), (16, 32), (64, 16), (32, 64)]))
    grid = (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5)))
    density, tokens = data.draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])), data.draw(st.integers(1, 70))
    dtype, gelu, seed = (
        data.draw(st.sampled_from([torch.float32, HALF])),
        data.draw(st.booleans()),
        data.draw(st.integers(0, 9)),
    )
    tile = Tile(data.draw(st.sampled_from([16, 32, 64])), data.draw(st.sampled_from([1, 2, 4])), 4, 2)
    weight, bias, x = case(grid, block, density, tokens, dtype, seed)
    around = torch.full((tokens + 2, len(weight)), 7.0, dtype=dtype)
    MergedLinear(weight, bias, block, gelu, dtype, tile)(x, around[1:-1])
    expected = functional.linear(x.double(), weight.double(), bias.double())
    expected = functional.gelu(expected) if gelu else expected
    room = torch.finfo(dtype).eps * expected.abs() + 3e-6 * (1 + x.abs().sum(1, keepdim=True).double())
    assert ((around[1:-1].double() - expected).abs() <= room).all()
    assert (around[[0, -1]] == 7).all()


def test_values_that_are_not_numbers_stay_so():
    weight, bias, x = case((1, 1), (32, 32), 1.0, 3, HALF, 0)
    x[1, 0] = torch.nan
    found = MergedLinear(weight, bias, (32, 32), False, HALF, Tile(16, 2, 4, 2))(x)
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


@pytest.mark.parametrize(("dtype", "most"), [("fp32", 1e-3), ("bf16", 0.5)])
def test_the_bundled_model_has_the_logits_of_dense(dtype, most):
    loaded = checkpoint.load("bundled")
    model = compact.cut(checkpoint.load("bundled").model, loaded.block).to(runtimes.DTYPES[dtype]).eval()
    model = triton_blocks.convert(model, loaded.block, Tile(64, 32, 4, 2))
    assert runtimes.kernel(model) == "triton 64x32x4x2"
    inputs = {
        "input_ids": torch.arange(40).view(2, 20) + 1000,
        "attention_mask": torch.tensor([[1] * 20, [1] * 11 + [0] * 9]),
    }
    with torch.inference_mode():
        ours, dense = model(**inputs), loaded.model.eval()(**inputs)
    for name in ("start_logits", "end_logits"):
        assert (ours[name].float() - dense[name]).abs().max() < most
