"""The Triton kernels of the GPU runtimes; imported only where Triton is.

`multiply`: a program holds `TOKENS` tokens by `ROWS` merged block rows of sums in registers. It walks through the
panels of its group: `DEPTH` inputs at a time, gathered block by block, times weights that are packed dense. A panel of
64 to 128 inputs feeds the matrix units four to eight times between two barriers; one of a single block of 32 does it
twice.

`add_norm`: residual and LayerNorm, which follow two of the four products of a layer (why apart: `add_norm.py`).
"""

import triton
import triton.language as tl


@triton.jit
def multiply(
    x, values, bias, out, starts, columns, order, tokens, inputs, outputs,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, DEPTH: tl.constexpr,
    GELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`out = f(x W^T + bias)`; the grid is tiles of tokens by groups of block rows, the fullest group first.

    x: (tokens, inputs). values: (panels, ROWS * HEIGHT, DEPTH). bias: (outputs,), float32. out: (tokens, outputs).
    starts: (groups + 1,), where among the panels a group begins. columns: (panels, DEPTH // WIDTH), block columns.
    order: (groups, ROWS), block rows of a group, or -1.
    """
    tile, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x += tile * TOKENS * inputs
    out += tile * TOKENS * outputs
    token, lane, depth = tl.arange(0, TOKENS), tl.arange(0, ROWS * HEIGHT), tl.arange(0, DEPTH)
    there = token < tokens - tile * TOKENS
    sums = tl.zeros((TOKENS, ROWS * HEIGHT), tl.float32)
    place = lane[None, :] * DEPTH + depth[:, None]
    for panel in range(tl.load(starts + group), tl.load(starts + group + 1)):
        column = tl.load(columns + panel * (DEPTH // WIDTH) + depth // WIDTH) * WIDTH + depth % WIDTH
        taken = tl.load(x + token[:, None] * inputs + column[None, :], mask=there[:, None], other=0.0)
        weight = tl.load(values + panel * (ROWS * HEIGHT * DEPTH) + place)
        sums = tl.dot(taken, weight, sums, input_precision=PRECISION)
    row = tl.load(order + group * ROWS + lane // HEIGHT)
    output = row * HEIGHT + lane % HEIGHT
    sums += tl.load(bias + output, mask=row >= 0, other=0.0)[None, :]
    if GELU:
        sums = 0.5 * sums * (1 + tl.erf(sums * 0.7071067811865476))
    there = there[:, None] & (row >= 0)[None, :]
    tl.store(out + token[:, None] * outputs + output[None, :], sums.to(out.dtype.element_ty), mask=there)


@triton.jit
def add_norm(y, residual, weight, bias, out, tokens, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """`out = LayerNorm(y + residual)` over rows of `width` numbers; a program takes ROWS of them. `out` may be `y`.

    y, residual, out: (tokens, width). weight, bias: (width,). WIDTH: the power of two from `width` on.
    """
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = column < width
    there = (token < tokens)[:, None] & inside[None, :]
    place = token[:, None] * width + column[None, :]
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)  # waited for with the rest
    shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(y + place, mask=there, other=0.0).to(tl.float32)
    x += tl.load(residual + place, mask=there, other=0.0).to(tl.float32)
    x -= (tl.sum(x, 1) / width)[:, None]
    x = tl.where(inside[None, :], x, 0.0)
    x *= (1 / tl.sqrt(tl.sum(x * x, 1) / width + eps))[:, None]
    found = x * scale[None, :] + shift[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=there)
