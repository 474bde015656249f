"""The block-sparse linear layer that learns, against float64, for every instruction set that this machine has."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qalib.model import blocks
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.cpu.pattern import BlockPattern, gradient_instructions
from qalib.runtimes.cpu.trainable_linear import TrainableBlockSparseLinear
from qalib.utils.errors import InputError

HALF = torch.bfloat16
SIZES = [(32, 32), (16, 16), (64, 64), (16, 32), (8, 8), (9, 16), (4, 2), (3, 5), (1, 1), (1, 4), (2, 16), (48, 6)]
CAPS = [name for name in ("torch", "portable", "avx2", "avx512") if name in instruction_sets.available()]

reason = instruction_sets.unavailable_reason()
needs_operator = pytest.mark.skipif(reason is not None, reason=str(reason))


def layer(grid, block, density, seed=0, bias=True):
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand(grid, generator=random) < density
    if len(kept) > 1:
        kept[-1] = False  # a block row without a block
    weight = torch.randn(grid[0] * block[0], grid[1] * block[1], generator=random)
    dense = nn.Linear(*weight.shape[::-1], bias)
    dense.weight.data = weight * blocks.expand(kept, block)
    return dense, TrainableBlockSparseLinear.from_dense(dense, kept, block)


def step(module, x, dy):
    """y and the gradients of x, weight (or values) and bias."""
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(dy)
    return y.detach(), x.grad, *(p.grad for p in module.parameters())


def exact(dense, x, dy, kept, block):
    """The step in float64, and sums of absolute products, which bound what rounding does to each result."""
    dense = copy.deepcopy(dense).double()
    results = step(dense, x.double(), dy.double())
    magnitudes = copy.deepcopy(dense)
    for parameter in magnitudes.parameters():
        parameter.data.abs_()
        parameter.grad = None
    bounds = step(magnitudes, x.double().abs(), dy.double().abs())
    return [(y, dx, blocks.split(dw, block)[kept], db) for y, dx, dw, db in (results, bounds)]


@pytest.mark.parametrize("cap", CAPS + [None])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_step_against_float64(cap, dtype, data):
    block = data.draw(st.sampled_from(SIZES))
    grid = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    density, seed = data.draw(st.sampled_from([0.0, 0.1, 0.2, 0.317, 0.8, 1.0])), data.draw(st.integers(0, 9))
    tokens = data.draw(st.integers(1, 70) | st.just(513) | st.just(1100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QALIB_INSTRUCTIONS", cap or "")
        dense, sparse = layer(grid, block, density, seed)
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(tokens, grid[1] * block[1], generator=random).to(dtype)
        dy = torch.randn(tokens, grid[0] * block[0], generator=random).to(dtype)
        with torch.autocast("cpu", HALF, enabled=dtype == HALF):
            found = step(sparse, x, dy)
        dense_is_faster = sparse.pattern.density > (0.9 if min(block) >= 8 else 0.3)
        assert sparse.instructions(x) == ("torch" if dense_is_faster else instruction_sets.best(block, dtype))
    for result, expected, bound in zip(found, *exact(dense, x, dy, sparse.kept, block), strict=True):
        assert result.shape == expected.shape
        # Weights and results are rounded to bfloat16, and torch's way rounds the weight's gradient, too.
        room = (2**-8 if dtype == HALF else 0) * (bound + expected.abs()) + 3e-6 * bound + 1e-30
        assert ((result.double() - expected).abs() <= room).all()


def test_gradcheck():
    dense, sparse = layer((2, 3), (4, 2), 0.6)
    sparse, x = sparse.double(), torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert sparse.instructions(x) == "torch"

    def by_parameters(x, values, bias):
        return torch.func.functional_call(sparse, {"values": values, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(by_parameters, (x, *sparse.parameters()))


@needs_operator
def test_the_weights_gradient_is_as_exact_as_the_dense_one():
    for dtype in (torch.float32, HALF):
        random = torch.Generator().manual_seed(0)
        x, dy = (torch.randn(2000, 64, generator=random).to(dtype) for _ in range(2))
        pattern = BlockPattern(torch.eye(2, dtype=torch.bool), (32, 32))
        assert gradient_instructions(pattern.block, dtype, pattern.density) is not None
        expected = blocks.split(dy.double().T @ x.double(), (32, 32))[pattern.kept]
        dense = blocks.split(dy.T @ x, (32, 32))[pattern.kept].double()
        error = (pattern.weight_gradient(x, dy).double() - expected).norm()
        assert error <= 1.05 * (dense - expected).norm()


@pytest.mark.parametrize("name", [name for name in CAPS if name != "torch"] + ["avx512_bf16"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_weights_gradient_of_every_instruction_set(name, data):
    lanes = torch.ops.qalib.gradient_lanes(name) if reason is None else 0
    if not lanes:
        pytest.skip("is not here")
    dtype = HALF if name == "avx512_bf16" else data.draw(st.sampled_from([torch.float32, HALF]))
    height, width = data.draw(st.integers(1, 40)), lanes * data.draw(st.integers(1, 5))
    grid, tokens = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), data.draw(st.integers(1, 1100))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    x = torch.randn(tokens, grid[1] * width, generator=random).to(dtype)
    dy = torch.randn(tokens, grid[0] * height, generator=random).to(dtype)
    kept = torch.rand(grid, generator=random) < data.draw(st.sampled_from([0.0, 0.4, 1.0]))
    rows, columns = kept.nonzero().int().T.contiguous()
    out = torch.full((len(rows), height, width), torch.nan)
    torch.ops.qalib.block_sparse_weight_gradient(x, dy, rows, columns, name, out)
    expected = blocks.split(dy.double().T @ x.double(), (height, width))[kept]
    bound = blocks.split(dy.double().abs().T @ x.double().abs(), (height, width))[kept]
    assert ((out.double() - expected).abs() <= 3e-6 * bound + 1e-30).all()


@needs_operator
def test_the_gradients_kernel_is_taken_where_it_is_faster(monkeypatch):
    available = ["torch", "portable", "avx2", "avx2_int8", "avx512", "avx512_bf16", "amx_bf16"]
    lanes = {"portable": 4, "avx2": 8, "avx512": 16, "avx512_bf16": 16, "amx_bf16": 0}
    monkeypatch.setattr(torch.ops.qalib, "gradient_lanes", lanes.get)
    cases = [
        (7, (32, 32), torch.float32, 0.9, "avx512"),
        (6, (32, 32), HALF, 0.9, "avx512_bf16"),
        (7, (32, 32), HALF, 0.317, None),  # a dense product by AMX
        (7, (32, 32), HALF, 0.1, "avx512_bf16"),
        (7, (8, 8), torch.float32, 0.317, "avx2"),
        (7, (8, 8), torch.float32, 0.6, None),
        (7, (1, 4), torch.float32, 0.1, None),
        (7, (16, 6), torch.float32, 0.1, None),
        (1, (32, 32), torch.float32, 0.1, None),
    ]
    for count, block, dtype, density, expected in cases:
        monkeypatch.setattr(instruction_sets, "available", lambda count=count: available[:count])
        assert gradient_instructions(block, dtype, density) == expected, (block, dtype, density)


def test_only_kept_blocks_have_parameters_and_states():
    dense, sparse = layer((4, 6), (32, 32), 0.3)
    optimizer = torch.optim.AdamW(sparse.parameters(), fused=True)
    step(sparse, torch.randn(9, 192), torch.randn(9, 128))
    optimizer.step()
    kept = int(sparse.kept.sum())
    sizes = [tensor.shape for tensor in optimizer.state[sparse.values].values() if tensor.ndim]
    assert 0 < kept < 24 and sparse.values.grad.shape == (kept, 32, 32) and sizes == 2 * [(kept, 32, 32)]


def test_steps_of_adam_are_those_of_a_masked_dense_layer():
    dense, sparse = layer((4, 6), (32, 32), 0.4)
    mask = blocks.expand(sparse.kept, (32, 32))
    optimizers = [torch.optim.AdamW(module.parameters(), 1e-2, weight_decay=0.0) for module in (dense, sparse)]
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        x, dy = torch.randn(3, 11, 192, generator=random), torch.randn(3, 11, 128, generator=random)
        for module, optimizer in zip((dense, sparse), optimizers, strict=True):
            optimizer.zero_grad()
            step(module, x, dy)
            if module is dense:
                dense.weight.grad *= mask
            optimizer.step()
    made = sparse.to_dense()
    assert (made.weight - dense.weight).abs().max() < 1e-4 and (made.bias - dense.bias).abs().max() < 1e-4
    assert torch.equal(made.weight != 0, mask)


def test_to_dense_and_back():
    dense, sparse = layer((2, 3), (8, 16), 0.5)
    made = sparse.to_dense()
    assert torch.equal(made.weight, dense.weight) and torch.equal(made.bias, dense.bias)
    again = TrainableBlockSparseLinear.from_dense(made, block=(8, 16))  # blocks that are not zero
    assert torch.equal(again.kept, sparse.kept) and torch.equal(again.values, sparse.values)
    frozen, eager = dense.requires_grad_(False).eval(), TrainableBlockSparseLinear.from_dense(dense, block=(8, 16))
    assert not eager.training and not any(p.requires_grad for p in eager.parameters())
    assert TrainableBlockSparseLinear.from_dense(nn.Linear(16, 8, bias=False), block=(8, 16)).bias is None
    assert frozen is dense


def test_a_layer_of_its_own():
    kept = torch.eye(2, dtype=torch.bool)
    made = TrainableBlockSparseLinear(64, 64, kept, dtype=torch.float64)
    assert 0.1 < made.values.abs().max() <= 32**-0.5  # of the 32 inputs that an output has
    assert made.values.dtype == made.bias.dtype == torch.float64 and "density=0.5" in repr(made)


def test_a_state_dict_keeps_which_blocks_are_kept():
    (_, one), (_, other) = layer((2, 3), (8, 16), 0.5, seed=1), layer((2, 3), (8, 16), 0.5, seed=2)
    fresh = TrainableBlockSparseLinear(48, 16, one.kept, (8, 16))
    fresh.load_state_dict(one.state_dict())
    assert torch.equal(fresh.values, one.values)
    with pytest.raises(RuntimeError, match="kept: the blocks kept there are not those of this layer"):
        other.load_state_dict(one.state_dict())


def test_a_second_derivative_is_refused():
    _, sparse = layer((2, 1), (32, 32), 1.0)
    x = torch.randn(4, 32, requires_grad=True)
    if sparse.instructions(x) == "torch":
        pytest.skip("torch has one")
    (dx,) = torch.autograd.grad(sparse(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_under_torch_compile():
    _, sparse = layer((2, 2), (32, 32), 1.0)  # of its blocks, those of one row are kept
    model = nn.Sequential(nn.LayerNorm(64), sparse, nn.GELU())
    x, dy = torch.randn(5, 64), torch.randn(5, 64)
    expected = step(model, x, dy)
    model.zero_grad(set_to_none=True)
    compiled = step(torch.compile(model, backend="aot_eager"), x, dy)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(compiled, expected, strict=True))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="block-sparse products are not compiled"):
        torch.compile(model, backend="aot_eager", fullgraph=True)(x)


@pytest.mark.parametrize(
    ("kept", "block", "message"),
    [
        (torch.ones(2, 3), (8, 8), r"one entry for each 8x8 block of 16x32, not shape \(2, 3\)"),
        (torch.ones(3, 6), (5, 5), "one entry for each 5x5 block"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(kept, block, message):
    with pytest.raises(InputError, match=message):
        TrainableBlockSparseLinear(32, 16, kept, block)
    with pytest.raises(InputError, match="a 16x32 weight cannot be cut into 5x5 blocks"):
        TrainableBlockSparseLinear.from_dense(nn.Linear(32, 16), block=(5, 5))


@needs_operator
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": torch.tensor([2], dtype=torch.int32)}, "block 0 must be within 2, not at 2"),
        ({"columns": torch.tensor([-1], dtype=torch.int32)}, "block 0 must be within 2, not at -1"),
        ({"x": torch.randn(5, 64).double()}, "is not for Double"),
        ({"dy": torch.randn(4, 64)}, "as many tokens"),
        ({"out": torch.empty(1, 32, 3)}, "blocks of 32x3 do not suit portable"),
        ({"name": "sse"}, "no instruction set 'sse'"),
    ],
)
def test_the_operator_refuses_what_would_read_elsewhere(changes, message):
    place = torch.zeros(1, dtype=torch.int32)
    given = {"x": torch.randn(5, 64), "dy": torch.randn(5, 64), "rows": place, "columns": place}
    given |= {"name": "portable", "out": torch.empty(1, 32, 32)} | changes
    with pytest.raises(RuntimeError, match=message):
        torch.ops.qalib.block_sparse_weight_gradient(*given.values())


@needs_operator
def test_packing_refuses_what_would_read_elsewhere():
    with pytest.raises(RuntimeError, match="piece 0 is not within the values"):
        torch.ops.qalib.pack_blocks(torch.zeros(1, 4, 4), torch.tensor([1]), 4, 1, torch.empty(1, 4, 4, 1))
