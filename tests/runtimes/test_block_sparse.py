"""The block-sparse linear layer against float64, for every instruction set that this machine has."""

import copy
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from qalib import runtimes
from qalib.model import blocks
from qalib.model.relative_positions import PositionBias
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.block_sparse_linear import AttentionProducts, BlockSparseLinear, attends
from qalib.utils.errors import InputError

HALF = torch.bfloat16
INT8 = [name for name in instruction_sets.available() if name in instruction_sets.INT8]
SETS = [
    (name, dtype)
    for name in instruction_sets.available()
    for dtype in (torch.float32, HALF)
    if name not in INT8 and instruction_sets.supports(name, (32, 32), dtype)
]
SIZES = [(32, 32), (16, 16), (64, 64), (16, 32), (8, 8), (4, 2), (3, 5), (1, 1), (1, 4), (2, 16), (48, 6)]

reason = instruction_sets.unavailable_reason()
needs_operator = pytest.mark.skipif(reason is not None, reason=str(reason))


def case(rows, columns, block, density, tokens, dtype, seed=0):
    """A weight with random kept blocks, a bias, tokens; the values are those of the type."""
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand((rows, columns), generator=random) < density
    shape = (rows * block[0], columns * block[1])
    weight = torch.randn(shape, generator=random).to(dtype).float() * blocks.expand(kept, block)
    return weight, torch.randn(shape[0], generator=random), torch.randn((tokens, shape[1]), generator=random).to(dtype)


def extent(data, block):
    """Rows and columns of blocks; of small blocks sometimes so many that they are multiplied part by part."""
    if block[0] > 8:
        return data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    return data.draw(st.integers(1, 70) | st.just(210)), data.draw(st.integers(1, 7) | st.just(400))


def exact(weight, bias, x, gelu):
    found = functional.linear(x.double(), weight.double(), bias.double())
    return functional.gelu(found) if gelu else found


@pytest.mark.parametrize(("instructions", "dtype"), SETS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_against_float64(instructions, dtype, data):
    block = data.draw(st.sampled_from([size for size in SIZES if instruction_sets.supports(instructions, size, dtype)]))
    (rows, columns), tokens = extent(data, block), data.draw(st.integers(1, 300))
    density = data.draw(st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
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


@pytest.mark.parametrize("instructions", INT8)
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_int8_is_within_its_steps(instructions, dtype, data):
    sizes = [(32, 32), (16, 16), (64, 64), (16, 4), (1, 4), (3, 4), (8, 8), (2, 16), (4, 1), (8, 2), (12, 3), (32, 1)]
    block = data.draw(st.sampled_from([size for size in sizes if instruction_sets.supports(instructions, size, dtype)]))
    (rows, columns), tokens = extent(data, block), data.draw(st.integers(1, 300))
    density, seed = data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.0])), data.draw(st.integers(0, 9))
    weight, bias, x = case(rows, columns, block, density, tokens, dtype, seed)
    found = BlockSparseLinear(weight, bias, block, False, dtype, instructions)(x).double()
    # By hand, in float64: each row of W and each token in steps of 1/127 of its largest value, rounded to the nearest.
    steps = [v.abs().amax(1, keepdim=True).double().clamp_min(1e-30) / 127 for v in (weight, x)]
    w, a = ((v.double() / step).round() * step for v, step in zip((weight, x), steps, strict=True))
    # Where a value is half-way between two steps, float32 may round to the other.
    of_w, of_x = ((v.double() / s % 1 - 0.5).abs().lt(1e-4) * s for v, s in zip((weight, x), steps, strict=True))
    slack = of_x @ w.abs().T + (a.abs() + of_x) @ of_w.T
    expected = functional.linear(a, w, bias.double())
    # The result is rounded to its type as it was found, the slack included.
    assert ((found - expected).abs() <= torch.finfo(dtype).eps * (expected.abs() + slack) + slack + 1e-4).all()


@pytest.mark.parametrize("instructions", INT8)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_int8_sums_are_exact(instructions, data):
    """Whole numbers up to 127 are their own steps; the largest of both signs would overflow 16 bits."""
    columns, tokens = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    narrow = [size for size in [(1, 4), (4, 1)] if instruction_sets.supports(instructions, size, torch.float32)]
    block = data.draw(st.sampled_from([(32, 32), *narrow]))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    pick = st.sampled_from([(-127, 128), (127, 128), (-127, -126)])
    weight, x = (
        torch.randint(*data.draw(pick), (rows, 32 * columns), generator=random).float() for rows in (32, tokens)
    )
    weight[:, 0], x[:, 0] = 127, -127
    found = BlockSparseLinear(weight, torch.zeros(32), block, False, torch.float32, instructions)(x)
    expected = functional.linear(x.double(), weight.double())
    assert torch.equal(found, expected.float())


@pytest.mark.parametrize("instructions", instruction_sets.available())
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_added_and_normalised(instructions, data):
    """What a residual and LayerNorm make of the result in the operator is what torch makes of it after."""
    dtype = data.draw(st.sampled_from([torch.float32, HALF])) if instructions not in instruction_sets.BF16 else HALF
    odd = [size for size in [(3, 5), (3, 4), (1, 4)] if instruction_sets.supports(instructions, size, dtype)]
    block = data.draw(st.sampled_from([(32, 32), (16, 16), *odd]))
    weight, bias, x = case(data.draw(st.integers(1, 5)), 3, block, 0.5, data.draw(st.integers(1, 40)), dtype)
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    norm = torch.nn.LayerNorm(len(weight), eps=1e-3)
    for parameter in norm.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random)
    linear = BlockSparseLinear(weight, bias, block, False, dtype, instructions)
    residual = (3 * torch.randn((len(x), len(weight)), generator=random)).to(dtype)
    around = torch.full((len(x) + 2, len(weight)), 7.0, dtype=dtype)
    with torch.inference_mode():
        y = linear(x).double() + residual.double()
        expected = copy.deepcopy(norm).double()(y)
        found = linear(x, around[1:-1], residual, copy.deepcopy(norm).to(dtype))
        rounded = torch.nn.utils.parameters_to_vector(norm.parameters()).abs().max()
    deviation = (y.var(1, unbiased=False) + 1e-3).sqrt()[:, None]
    room = torch.finfo(dtype).eps * (expected.abs() + (8 + y.abs() / deviation) * rounded) + 1e-5 * (1 + rounded)
    assert ((found.double() - expected).abs() <= room).all()
    assert (around[[0, -1]] == 7).all()


@pytest.mark.parametrize("instructions", instruction_sets.available())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_two_layers_in_one_are_the_two_in_turn(instructions, data):
    """Bit by bit, whether tiles are small enough for both or not, and whatever their blocks are."""
    dtype = data.draw(st.sampled_from([torch.float32, HALF])) if instructions not in instruction_sets.BF16 else HALF
    suit = [size for size in SIZES if instruction_sets.supports(instructions, size, dtype)]
    first, second = data.draw(st.sampled_from(suit)), data.draw(st.sampled_from(suit))
    middle = math.lcm(first[0], second[1]) * data.draw(st.integers(1, 3))
    density, tokens = data.draw(st.sampled_from([0.0, 0.4, 1.0])), data.draw(st.sampled_from([1, 5, 33, 64, 700]))
    weight, bias, x = case(middle // first[0], data.draw(st.integers(1, 4)), first, density, tokens, dtype)
    inner = BlockSparseLinear(weight, bias, first, data.draw(st.booleans()), dtype, instructions)
    weight, bias, _ = case(data.draw(st.integers(1, 4)), middle // second[1], second, density, 1, dtype, 1)
    outer = BlockSparseLinear(weight, bias, second, False, dtype, instructions)
    residual, norm = torch.ones(tokens, len(bias), dtype=dtype), torch.nn.LayerNorm(len(bias)).to(dtype)
    around = torch.full((tokens + 2, len(bias)), 7.0, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(outer(x, inner=inner), outer(inner(x)))
        found = outer(x, around[1:-1], residual, norm, inner)
        assert torch.equal(found, outer(inner(x), None, residual, norm))
    assert (around[[0, -1]] == 7).all()


@needs_operator
def test_what_goes_through_two_layers_where_weights_are_large_goes_through_one_after_the_other():
    """Weights that are larger than many times the results between: their tiles would read them too often."""
    weight, bias, x = case(96, 96, (32, 32), 1.0, 70, torch.float32)
    layer = BlockSparseLinear(weight / 50, bias, (32, 32), True)
    with torch.inference_mode():
        assert torch.equal(layer(x, inner=layer), layer(layer(x)))


@needs_operator
def test_a_cap_on_instruction_sets(monkeypatch, sparse):
    monkeypatch.delenv("QALIB_INSTRUCTIONS", raising=False)
    everything = instruction_sets.available()
    for most in ("torch", "portable", "avx2", "avx512"):
        monkeypatch.setenv("QALIB_INSTRUCTIONS", most)
        allowed = instruction_sets.LEVELS[: instruction_sets.LEVELS.index(most) + 1]
        assert instruction_sets.available() == [n for n in everything if n.split("_int8")[0] in allowed]
        assert instruction_sets.best((32, 32), torch.float32) in allowed
    monkeypatch.setenv("QALIB_INSTRUCTIONS", "portable")
    module = runtimes.build("block-sparse", sparse)
    assert {m.instructions for m in module.modules() if isinstance(m, BlockSparseLinear)} == {"portable"}
    with pytest.raises(InputError, match="block-sparse-int8: none of avx2_int8, avx_vnni, .*, amx_int8 is among"):
        runtimes.build("block-sparse-int8", sparse)
    # as a machine of that kind has them
    has = ["portable", "avx2", "avx2_int8", "avx_vnni", "avx512", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"]
    monkeypatch.setattr(instruction_sets, "_compiled", lambda: has)
    for best in ("avx2_int8", "avx_vnni", "avx512_vnni", "amx_int8"):
        monkeypatch.setenv("QALIB_INSTRUCTIONS", best.replace("avx2_int8", "avx2"))
        assert instruction_sets.best_int8() == best
    monkeypatch.setenv("QALIB_INSTRUCTIONS", "avx2")
    assert instruction_sets.available() == ["torch", "portable", "avx2", "avx2_int8"]


def test_an_unknown_cap_is_refused(monkeypatch):
    monkeypatch.setenv("QALIB_INSTRUCTIONS", "mmx")
    with pytest.raises(InputError, match="QALIB_INSTRUCTIONS: no instruction set 'mmx'; there are torch, portable"):
        instruction_sets.available()


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


@pytest.mark.parametrize("instructions", instruction_sets.available())
def test_what_is_around_the_result_stays(instructions):
    weight, bias, x = case(2, 3, (32, 32), 0.5, 17, HALF)
    around = torch.full((19, 64), 7.0, dtype=HALF)
    BlockSparseLinear(weight, bias, (32, 32), True, HALF, instructions)(x, around[1:-1])
    assert (around[[0, -1]] == 7).all() and (around[1:-1] != 7).any()


def test_values_that_are_not_numbers_stay_so():
    weight, bias, x = case(1, 1, (32, 32), 1.0, 3, HALF)
    x[1, 0] = torch.nan
    for instructions in instruction_sets.available():  # int8 too
        found = BlockSparseLinear(weight, bias, (32, 32), False, HALF, instructions)(x)
        assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


def attention(qkv, mask, heads, bias=None):
    """In the type of its arguments, step by step; torch's own takes a faster way in some types."""
    query, key, value = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if bias is not None:
        places = torch.arange(qkv.shape[1])
        scores += bias[:, places - places[:, None] + len(places) - 1].to(scores.dtype)
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("instructions", "dtype"), SETS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_attention_against_float64(instructions, dtype, data):
    batch, heads, size = (data.draw(st.sampled_from(values)) for values in ((1, 2), (1, 3), (16, 32, 48, 64)))
    length, seed = data.draw(st.integers(1, 90) | st.sampled_from([128, 384, 512])), data.draw(st.integers(0, 9))
    random = torch.Generator().manual_seed(seed)
    qkv = (1.5 * torch.randn((batch, length, 3 * heads * size), generator=random)).to(dtype)
    seen = torch.arange(length) < torch.randint(1, length + 1, (batch, 1), generator=random)
    mask = seen[:, None, None].expand(batch, 1, length, length) if data.draw(st.booleans()) else None
    # as large as a trained MPNet's; in bf16 torch adds it in that type
    bias = (2.5 * torch.randn((heads, 2 * length - 1), generator=random)).to(dtype).float()
    bias = bias if data.draw(st.booleans()) else None
    around = torch.full((batch + 2, length, heads * size), 7.0, dtype=dtype)
    position_bias = None if bias is None else PositionBias(bias.to(dtype), mask)
    found = AttentionProducts(heads, size, instructions)(qkv, mask, around[1:-1], position_bias)
    expected = attention(qkv.double(), torch.ones(1, dtype=bool) if mask is None else mask, heads, bias)
    room = 4 * torch.finfo(dtype).eps * (1 + qkv.abs().max()) + 2e-5  # weights in the type, scores in float32
    assert (found.double() - expected).abs().max() <= room
    assert (around[[0, -1]] == 7).all()


@pytest.mark.parametrize(("instructions", "dtype"), SETS[2:])
def test_attention_errs_no_more_than_torch(instructions, dtype):
    qkv = torch.randn((4, 150, 3 * 4 * 32), generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = attention(qkv.double(), torch.ones(1, dtype=bool), 4)
    ours, torchs = (AttentionProducts(4, 32, name)(qkv) for name in (instructions, "torch"))
    errors = [(found.double() - expected).norm() / expected.norm() for found in (ours, torchs)]
    assert errors[0] <= 1.1 * errors[1]


@pytest.mark.parametrize(("instructions", "dtype"), SETS)
def test_attention_to_what_is_not_a_number(instructions, dtype):
    qkv = torch.randn((2, 20, 3 * 2 * 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    qkv[0, 3, 0] = torch.nan  # a query of the first head
    found = AttentionProducts(2, 16, instructions)(qkv)
    assert found[0, 3, :16].isnan().all() and found.isnan().sum() == 16


@needs_operator
def test_threads_agree_on_attention():
    before, qkv, found = torch.get_num_threads(), torch.randn(3, 70, 3 * 5 * 32), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(AttentionProducts(5, 32, attends(32, torch.float32))(qkv))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(("instructions", "dtype"), SETS)
def test_position_bias_is_by_distance_and_head(instructions, dtype):
    """A bias that hides all keys but the one before a query: its value is the result; so with one head cut."""
    qkv = torch.randn((2, 70, 3, 3, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = torch.full((3, 139), -1e4)
    for head, distance in enumerate((-1, 0, 5)):
        bias[head, 69 + distance] = 0
    position_bias = PositionBias(bias.to(dtype))
    found = AttentionProducts(3, 16, instructions)(qkv.flatten(2), position_bias=position_bias).unflatten(2, (3, 16))
    assert torch.equal(found[:, 1:, 0], qkv[:, :-1, 2, 0]) and torch.equal(found[:, :, 1], qkv[:, :, 2, 1])
    assert torch.equal(found[:, :-5, 2], qkv[:, 5:, 2, 2])
    left = torch.tensor([0, 2])
    cut = AttentionProducts(2, 16, instructions)(qkv[:, :, :, left].flatten(2), position_bias=position_bias.of(left))
    assert torch.equal(cut.unflatten(2, (2, 16)), found[:, :, [0, 2]])


@needs_operator
def test_attention_that_does_not_fit_is_refused():
    ours, qkv = AttentionProducts(2, 16, "portable"), torch.zeros(1, 5, 96)
    for arguments, message in (
        ((qkv.double(),), "qkv is Double"),
        ((qkv[:, :, :90].contiguous(),), "heads of 15 do not suit portable"),
        ((qkv, None, torch.empty(1, 5, 30)), "out does not suit qkv"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ours(*arguments)
    for mask, bias, message in (
        (torch.zeros(1, 4), None, r"mask must be float32 of shape \(1, 5\)"),
        (None, torch.zeros(2, 8), r"bias must be float32 of shape \(2, 9\)"),
        (None, torch.zeros(1, 9), r"bias must be float32 of shape \(2, 9\)"),
        (None, torch.zeros(2, 9, dtype=HALF), r"bias must be float32 of shape \(2, 9\)"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.qalib.attention(qkv, mask, bias, 2, 1.0, "portable", torch.empty(1, 5, 32))


@needs_operator
def test_a_layer_can_be_compiled_as_a_whole():
    weight, bias, x = case(2, 3, (32, 32), 0.5, 17, torch.float32)
    linear = BlockSparseLinear(weight, bias, (32, 32), gelu=True)
    for backend in ("aot_eager", "inductor"):
        compiled = torch.compile(linear, fullgraph=True, backend=backend)
        assert torch.equal(compiled(x), linear(x))
    products = AttentionProducts(2, 16, "portable")
    assert torch.equal(torch.compile(products, fullgraph=True, backend="aot_eager")(x[None]), products(x[None]))


@needs_operator
def test_arguments_that_do_not_fit_are_refused():
    weight, bias, x = case(2, 3, (32, 32), 0.5, 4, torch.float32)
    with pytest.raises(RuntimeError, match="x is Double"):
        BlockSparseLinear(weight, bias, (32, 32))(x.double())
    with pytest.raises(RuntimeError, match="x has 64 inputs, not 96"):
        BlockSparseLinear(weight, bias, (32, 32))(x[:, :64].contiguous())
    with pytest.raises(RuntimeError, match="out has 64 elements, not 256"):
        BlockSparseLinear(weight, bias, (32, 32))(x, torch.empty(64))
    with pytest.raises(RuntimeError, match="inner has 64 outputs, not 96"):
        BlockSparseLinear(torch.ones(64, 96), bias, (32, 32))(x, inner=BlockSparseLinear(weight, bias, (32, 32)))
    with pytest.raises(RuntimeError, match="no instruction set 'mmx'"):
        BlockSparseLinear(weight, bias, (32, 32), instructions="mmx")


@needs_operator
def test_a_weight_that_does_not_fit_is_refused():
    """Each part of a packed weight that would have the operator read or write what is not its own."""
    by_strips = BlockSparseLinear(*case(2, 3, (32, 32), 1.0, 4, torch.float32)[:2], (32, 32), instructions="portable")
    by_columns = BlockSparseLinear(*case(200, 3, (1, 4), 1.0, 4, torch.float32)[:2], (1, 4), instructions="portable")

    def changed(tensor, place, value):
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    for layer, part, change, message in (
        (by_strips, 0, torch.Tensor.half, "values are Half, not Float"),
        (by_strips, 0, lambda values: values.flatten()[:-1], "there are not .* blocks of values"),
        (by_strips, 1, lambda starts: changed(starts, 1, 99), "starts must ascend"),
        (by_strips, 2, lambda columns: changed(columns, 0, -32), "column -32 is not among 96 inputs"),
        (by_strips, 2, lambda columns: changed(columns, 0, 96), "column 96 is not among 96 inputs"),
        (by_strips, 2, lambda columns: changed(columns, 0, 5), "column 5 is not among 96 inputs"),
        (by_strips, 7, lambda inputs: inputs - 32, "column 64 is not among 64 inputs"),
        (by_strips, 4, torch.Tensor.double, "bias is not float32"),
        (by_strips, 8, lambda lanes: 3, "64 outputs are not in .* strips of 3 rows"),
        (by_columns, 3, lambda rows: changed(rows, 0, 192), "row 192 is not in its strip"),
        (by_columns, 3, lambda rows: changed(rows, -1, 8), "row 8 is not in its strip"),
        (by_columns, 3, lambda rows: changed(rows, 0, -1), "row -1 is not in its strip"),
        (by_columns, 8, lambda lanes: 96, "200 outputs are not in 2 strips of 96 rows"),
    ):
        state = list(layer.get_extra_state())
        state[part] = change(state[part])
        with pytest.raises(RuntimeError, match=message):
            layer.set_extra_state(state)


def gathers(name):
    return name in INT8 and instruction_sets.supports(name, (4, 1), torch.float32)


@pytest.mark.skipif(not any(map(gathers, INT8)), reason="no int8 instruction set here gathers columns")
def test_gathered_columns_that_are_no_whole_items_are_refused():
    name = [each for each in INT8 if gathers(each)][-1]
    layer = BlockSparseLinear(*case(3, 8, (4, 1), 1.0, 4, torch.float32)[:2], (4, 1), instructions=name)
    state = list(layer.get_extra_state())
    state[1] = torch.tensor([0, 6, 16, 24], dtype=torch.int32)
    with pytest.raises(RuntimeError, match="strip 1 does not begin with a whole item"):
        layer.set_extra_state(state)


@pytest.mark.parametrize("instructions", instruction_sets.available())
def test_a_layer_is_copied_saved_and_shared_by_threads(instructions, tmp_path):
    weight, bias, x = case(3, 4, (32, 32), 0.5, 9, HALF)
    layer = BlockSparseLinear(weight, bias, (32, 32), True, HALF, instructions)
    other = BlockSparseLinear(weight.roll(32, 1), -bias, (32, 32), True, HALF, instructions)
    expected = layer(x)
    assert not torch.equal(other(x), expected)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(other)]
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    copies[2].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(each(x), expected) for each in copies)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, expected) for y in pool.map(lambda _: layer(x), range(40)))


def test_a_layer_is_unpickled_where_nothing_is_loaded_yet(tmp_path):
    weight, bias, x = case(3, 4, (32, 32), 0.5, 9, torch.float32)
    layer = BlockSparseLinear(weight, bias, (32, 32))
    (tmp_path / "layer.pkl").write_bytes(pickle.dumps((layer, x, layer(x))))
    script = "import pickle, sys; layer, x, y = pickle.load(open(sys.argv[1], 'rb')); assert layer(x).equal(y)"
    subprocess.run([sys.executable, "-c", script, tmp_path / "layer.pkl"], check=True)


@needs_operator
def test_a_weight_that_is_gone_is_refused():
    weight, bias, x = case(2, 3, (32, 32), 0.5, 4, torch.float32)
    layer = BlockSparseLinear(weight, bias, (32, 32))
    number, twin = layer.number, copy.deepcopy(layer)
    expected = twin(x)
    del layer
    assert twin.number != number and torch.equal(twin(x), expected)
    with pytest.raises(RuntimeError, match=f"no packed weight has the number {number}"):
        torch.ops.qalib.block_sparse_linear(x, number, None, None, None, None, 0.0, torch.empty_like(expected))


@needs_operator
def test_no_second_openmp(sparse):
    """torch brings its own libgomp or libomp; the operator must not load another."""
    script = (
        "import torch; from qalib.runtimes.cpu import instruction_sets; maps = lambda: {line.split()[-1] for line in "
        "open('/proc/self/maps') if 'omp' in line.split()[-1].rsplit('/', 1)[-1]}\n"
        "before = maps(); assert instruction_sets.unavailable_reason() is None\n"
        "assert maps() == before, maps() - before"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc/self/maps")
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_the_operator_all_but_the_speed_is_the_same(sparse, monkeypatch):
    monkeypatch.setattr(instruction_sets, "unavailable_reason", lambda: "not compiled")
    assert instruction_sets.available() == ["torch"]
    module = runtimes.build("block-sparse", sparse)
    assert {m.instructions for m in module.modules() if isinstance(m, BlockSparseLinear)} == {"torch"}
    inputs = {"input_ids": torch.arange(40).view(2, 20) + 5}
    with torch.inference_mode():
        difference = module(**inputs).start_logits - sparse.model(**inputs).start_logits
    assert difference.abs().max() < 1e-4
