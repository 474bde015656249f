"""The block-sparse linear layer against float64, for every instruction set that this machine has."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from qalib import blocks, runtimes
from qalib.runtimes import block_sparse
from qalib.runtimes.block_sparse import BlockSparseLinear

HALF = torch.bfloat16
INT8 = block_sparse.INT8
SETS = [
    (name, dtype)
    for name in block_sparse.instruction_sets()
    for dtype in (torch.float32, HALF)
    if name != INT8 and block_sparse.takes(name, (32, 32), dtype)
]
SIZES = [(32, 32), (16, 16), (64, 64), (16, 32), (8, 8), (4, 2), (3, 5), (1, 1), (48, 6)]

needs_operator = pytest.mark.skipif(block_sparse.unavailable() is not None, reason=str(block_sparse.unavailable()))


def case(rows, columns, block, density, tokens, dtype, seed=0):
    """A weight with random kept blocks, a bias, tokens; the values are those of the type."""
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand((rows, columns), generator=random) < density
    shape = (rows * block[0], columns * block[1])
    weight = torch.randn(shape, generator=random).to(dtype).float() * blocks.expand(kept, block)
    return weight, torch.randn(shape[0], generator=random), torch.randn((tokens, shape[1]), generator=random).to(dtype)


def exact(weight, bias, x, gelu):
    found = functional.linear(x.double(), weight.double(), bias.double())
    return functional.gelu(found) if gelu else found


@pytest.mark.parametrize(("instructions", "dtype"), SETS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_against_float64(instructions, dtype, data):
    block = data.draw(
        st.sampled_from([(32, 32), (16, 16), (64, 64), (16, 32), (8, 8), (4, 2), (3, 5), (1, 1), (48, 6)])
    )
    if instructions == "avx512_bf16" and (block[0] % 16 or block[1] % 2):
        block = (32, 2)
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    density, tokens = data.draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])), data.draw(st.integers(1, 64))
    gelu, seed = data.draw(st.booleans()), data.draw(st.integers(0, 9))
    weight, bias, x = case(rows, columns, block, density, tokens, dtype, seed)
    linear = BlockSparseLinear(weight, bias, block, gelu, dtype, instructions)
    expected = exact(weight, bias, x, gelu)
    difference = (linear(x).double() - expected).abs()
    # Ours rounds to the type once, at the end; torch's way also before GELU. And float32's rounding of the sums.
    rounded = expected.abs() if instructions != "torch" else 4 * exact(weight, bias, x, False).abs() + 4 * bias.abs()
    room = torch.finfo(dtype).eps * rounded + 3e-6 * (1 + x.abs().sum(1, keepdim=True).double())
    assert (difference <= room).all()


@pytest.mark.parametrize(("instructions", "dtype"), SETS[2:])
def test_error_is_no_larger_than_that_of_the_dense_layer(instructions, dtype):
    weight, bias, x = case(12, 24, (32, 32), 0.317, 200, dtype)
    expected = exact(weight, bias, x, False)
    dense = functional.linear(x, weight.to(dtype), bias.to(dtype))
    ours = BlockSparseLinear(weight, bias, (32, 32), False, dtype, instructions)(x)
    errors = [(found.double() - expected).norm() / expected.norm() for found in (ours, dense)]
    assert errors[0] <= 1.05 * errors[1]


@pytest.mark.skipif(INT8 not in block_sparse.instruction_sets(), reason=f"this machine has no {INT8}")
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_int8_is_within_its_steps(dtype, data):
    block = data.draw(st.sampled_from([(32, 32), (16, 16), (64, 64), (16, 4)]))
    rows, columns, tokens = (data.draw(st.integers(1, most)) for most in (4, 6, 40))
    density, seed = data.draw(st.sampled_from([0.0, 0.3, 1.0])), data.draw(st.integers(0, 9))
    weight, bias, x = case(rows, columns, block, density, tokens, dtype, seed)
    found = BlockSparseLinear(weight, bias, block, False, dtype, INT8)(x).double()
    # By hand, in float64: each row of W and each token in steps of 1/127 of its largest value, rounded to the nearest.
    steps = [v.abs().amax(1, keepdim=True).double().clamp_min(1e-30) / 127 for v in (weight, x)]
    w, a = ((v.double() / step).round() * step for v, step in zip((weight, x), steps, strict=True))
    # Where a value is half-way between two steps, float32 may round to the other.
    of_w, of_x = ((v.double() / s % 1 - 0.5).abs().lt(1e-4) * s for v, s in zip((weight, x), steps, strict=True))
    slack = of_x @ w.abs().T + (a.abs() + of_x) @ of_w.T
    expected = functional.linear(a, w, bias.double())
    assert ((found - expected).abs() <= torch.finfo(dtype).eps * expected.abs() + slack + 1e-4).all()


@needs_operator
@pytest.mark.parametrize("tokens", [1, 2, 5, 200, 1500])
def test_threads_agree(tokens):
    weight, bias, x = case(4, 24, (32, 32), 0.5, tokens, torch.float32)
    linear, before, found = BlockSparseLinear(weight, bias, (32, 32)), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(linear(x))
    torch.set_num_threads(before)
    # How tokens are put together into panels does not change the order of a sum.
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("instructions", block_sparse.instruction_sets())
def test_what_is_around_the_result_stays(instructions):
    weight, bias, x = case(2, 3, (32, 32), 0.5, 17, HALF)
    around = torch.full((19, 64), 7.0, dtype=HALF)
    BlockSparseLinear(weight, bias, (32, 32), True, HALF, instructions)(x, around[1:-1])
    assert (around[[0, -1]] == 7).all() and (around[1:-1] != 7).any()


def test_values_that_are_not_numbers_stay_so():
    weight, bias, x = case(1, 1, (32, 32), 1.0, 3, HALF)
    x[1, 0] = torch.nan
    for instructions in block_sparse.instruction_sets():  # int8 too
        found = BlockSparseLinear(weight, bias, (32, 32), False, HALF, instructions)(x)
        assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


@needs_operator
def test_a_layer_can_be_compiled_as_a_whole():
    weight, bias, x = case(2, 3, (32, 32), 0.5, 17, torch.float32)
    linear = BlockSparseLinear(weight, bias, (32, 32), gelu=True)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), linear(x))


@needs_operator
def test_arguments_that_do_not_fit_are_refused():
    weight, bias, x = case(2, 3, (32, 32), 0.5, 4, torch.float32)
    with pytest.raises(RuntimeError, match="x is Double"):
        BlockSparseLinear(weight, bias, (32, 32))(x.double())
    with pytest.raises(RuntimeError, match="is not in x"):
        BlockSparseLinear(weight, bias, (32, 32))(x[:, :64].contiguous())
    with pytest.raises(RuntimeError, match="out has 64 elements, not 256"):
        BlockSparseLinear(weight, bias, (32, 32))(x, torch.empty(64))
    with pytest.raises(RuntimeError, match="no instruction set 'mmx'"):
        BlockSparseLinear(weight, bias, (32, 32), instructions="mmx")


@needs_operator
def test_no_second_openmp(sparse):
    """torch brings its own libgomp or libomp; the operator must not load another."""
    script = (
        "import torch; from qalib.runtimes import block_sparse; maps = lambda: {line.split()[-1] for line in "
        "open('/proc/self/maps') if 'omp' in line.split()[-1].rsplit('/', 1)[-1]}\n"
        "before = maps(); assert block_sparse.unavailable() is None; assert maps() == before, maps() - before"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc/self/maps")
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_the_operator_all_but_the_speed_is_the_same(sparse, monkeypatch):
    monkeypatch.setattr(block_sparse, "unavailable", lambda: "not compiled")
    assert block_sparse.instruction_sets() == ["torch"]
    module = runtimes.build("block-sparse", sparse)
    assert {m.instructions for m in module.modules() if isinstance(m, BlockSparseLinear)} == {"torch"}
    inputs = {"input_ids": torch.arange(40).view(2, 20) + 5}
    with torch.inference_mode():
        difference = module(**inputs).start_logits - sparse.model(**inputs).start_logits
    assert difference.abs().max() < 1e-4
