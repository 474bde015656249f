"""The Triton kernel of `block-sparse-triton`; imported only where Triton is.

A program holds `TOKENS` tokens by `ROWS` merged block rows of sums in registers. It walks through the block columns in
which any of its rows has a kept block: the tokens' part of a column is loaded once for all rows, blocks that are not
kept are not read. Merging fills the matrix units: 32 outputs alone wait for the second-level cache.
"""

import triton
import triton.language as tl


@triton.jit
def multiply(
    x, values, bias, out, starts, columns, slots, order, tokens, inputs, outputs,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    GELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`out = f(x W^T + bias)`; the grid is tiles of tokens by groups of block rows, the fullest group first.

    x: (tokens, inputs). values: (kept, HEIGHT, WIDTH). bias: (outputs,), float32. out: (tokens, outputs).
    starts: (groups + 1,), where in `columns` a group begins. columns: (steps,), block columns. slots: (steps, ROWS),
    which of `values` stands there, or -1. order: (groups, ROWS), block rows of a group, or -1.
    """
    tile, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x += tile * TOKENS * inputs
    out += tile * TOKENS * outputs
    token, lane, depth = tl.arange(0, TOKENS), tl.arange(0, ROWS * HEIGHT), tl.arange(0, WIDTH)
    there = token < tokens - tile * TOKENS
    sums = tl.zeros((TOKENS, ROWS * HEIGHT), tl.float32)
    for step in range(tl.load(starts + group), tl.load(starts + group + 1)):
        first = tl.load(columns + step) * WIDTH
        taken = tl.load(x + token[:, None] * inputs + (first + depth)[None, :], mask=there[:, None], other=0.0)
        slot = tl.load(slots + step * ROWS + lane // HEIGHT)
        weight = values + (slot * HEIGHT * WIDTH + lane % HEIGHT * WIDTH)[None, :] + depth[:, None]
        weight = tl.load(weight, mask=(slot >= 0)[None, :], other=0.0)
        sums = tl.dot(taken, weight, sums, input_precision=PRECISION)
    row = tl.load(order + group * ROWS + lane // HEIGHT)
    output = row * HEIGHT + lane % HEIGHT
    sums += tl.load(bias + output, mask=row >= 0, other=0.0)[None, :]
    if GELU:
        sums = 0.5 * sums * (1 + tl.erf(sums * 0.7071067811865476))
    there = there[:, None] & (row >= 0)[None, :]
    tl.store(out + token[:, None] * outputs + output[None, :], sums.to(out.dtype.element_ty), mask=there)
