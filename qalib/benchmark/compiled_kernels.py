"""The GPU kernels compiled without a GPU: registers, spills, shared memory, what the inner loop of products is.

`python -m qalib.benchmark.compiled_kernels FILE.md` writes the tables. Triton compiles to PTX, and the ptxas that it
brings to machine code; nothing is run, and nothing here is a time.
"""

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from qalib.benchmark.gpu.page import table
from qalib.benchmark.ptx import BARRIERS, PRODUCTS, inner_loop, instruction, registers_and_spills
from qalib.model.blocks import Block
from qalib.runtimes import add_norm
from qalib.runtimes.add_norm import Size
from qalib.runtimes.panels import Tile, tiles
from qalib.utils.files import write_text

GPUS = {80: "sm_80 (A100)", 90: "sm_90 (H100)"}
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program can have (CUDA C++ programming guide, table 30)
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
COLUMNS = {
    "card": "what it is compiled for",
    "dtype": "of inputs and weights",
    "size": "tokens x merged block rows x inputs of a panel x warps x pipeline stages",
    "registers": "of a thread, 255 at most",
    "spilled": "bytes of a thread that do not fit the registers, stored and loaded",
    "shared": "bytes of shared memory of a program",
    "instructions": "PTX instructions of the inner loop, a panel",
    "products": "of these, for the matrix units (wgmma, or mma.sync)",
    "barriers": "of these, that wait for all warps of the program (bar.sync)",
    "per_inputs": "PTX instructions of the loop / inputs that a panel has",
    "fits": "whether the card has so much shared memory",
}
WIDTHS = (384, 768, 1024)  # of MiniLM, BERT-base and BERT-large
NORM_COLUMNS = {name: COLUMNS[name] for name in ("card", "dtype")} | {
    "width": "numbers of a row",
    "size": "rows of a program x warps",
    **{name: COLUMNS[name] for name in ("registers", "spilled", "shared")},
    "instructions": "PTX instructions, all in all",
    "barriers": COLUMNS["barriers"],
    "bytes_a_load": "of a thread's narrowest load from memory; 16 are the most there are",
}


def compile_all(block: Block = (32, 32), dtypes: Sequence[str] = ("bf16", "fp32"), progress: bool = True):
    """One row a card, type and size of `panels.tiles`, with the columns of COLUMNS."""
    cases = [(card, dtype, tile) for card in GPUS for dtype in dtypes for tile in tiles(block, TYPES[dtype])]
    bar = tqdm(cases, unit="kernel", desc="compiling", disable=not progress)
    return pd.DataFrame([row(card, dtype, block, tile) for card, dtype, tile in bar], columns=list(COLUMNS))


def compile_norms(dtypes: Sequence[str] = ("bf16", "fp32")) -> pd.DataFrame:
    """One row a card, type, width and size of `add_norm.SIZES`, with the columns of NORM_COLUMNS."""
    cases = itertools.product(GPUS, dtypes, WIDTHS, add_norm.SIZES)
    return pd.DataFrame([norm_row(*case) for case in cases], columns=list(NORM_COLUMNS))


def row(card: int, dtype: str, block: Block, tile: Tile) -> dict[str, str | int | float | bool]:
    """The figures of one kernel (COLUMNS), with GELU; `card` is a compute capability, as 90."""
    made = compile_kernel(card, dtype, block, tile)
    registers, spilled = registers_and_spills(made.asm["ptx"])
    loop = inner_loop(made.asm["ptx"])
    return {
        "card": GPUS[card],
        "dtype": dtype,
        "size": str(tile),
        "registers": registers,
        "spilled": spilled,
        "shared": made.metadata.shared,
        "instructions": len(loop),
        "products": sum(line.startswith(PRODUCTS) for line in loop),
        "barriers": sum(line.startswith(BARRIERS) for line in loop),
        "per_inputs": round(len(loop) / tile.depth, 1),
        "fits": made.metadata.shared <= SHARED_MEMORY[card],
    }


def norm_row(card: int, dtype: str, width: int, size: Size) -> dict[str, str | int]:
    """The figures of the kernel for residual and norm (NORM_COLUMNS)."""
    made = compile_norm(card, dtype, width, size)
    registers, spilled = registers_and_spills(made.asm["ptx"])
    lines = [instruction(line) for line in made.asm["ptx"].splitlines()]
    loads = re.findall(r"\bld\.global(?:\.\w+)*?(?:\.v(\d))?\.b(\d+)\b", made.asm["ptx"])
    return {
        "card": GPUS[card],
        "dtype": dtype,
        "width": width,
        "size": str(size),
        "registers": registers,
        "spilled": spilled,
        "shared": made.metadata.shared,
        "instructions": sum(map(bool, lines)),
        "barriers": sum(line.startswith(BARRIERS) for line in lines),
        "bytes_a_load": min(int(many or 1) * int(bits) // 8 for many, bits in loads),
    }


def compile_kernel(card: int, dtype: str, block: Block, tile: Tile):
    """Triton's compiled kernel of products, for sizes that are multiples of 16."""
    from qalib.runtimes.triton_kernel import multiply

    fixed = {"HEIGHT": block[0], "WIDTH": block[1], "ROWS": tile.rows, "TOKENS": tile.tokens, "DEPTH": tile.depth,
             "GELU": True, "PRECISION": "tf32x3"}  # fmt: skip
    types = dict.fromkeys(("x", "values", "out"), f"*{dtype}") | {"bias": "*fp32"}
    types |= dict.fromkeys(("starts", "columns", "order"), "*i32")
    types |= dict.fromkeys(("tokens", "inputs", "outputs"), "i32")
    return _compile(multiply, card, types, fixed, num_warps=tile.warps, num_stages=tile.stages)


def compile_norm(card: int, dtype: str, width: int, size: Size):
    """Triton's compiled kernel for residual and norm, for a width that is a multiple of 16."""
    import triton

    from qalib.runtimes.triton_kernel import add_norm

    types = dict.fromkeys(("y", "residual", "weight", "bias", "out"), f"*{dtype}")
    types |= {"tokens": "i32", "width": "i32", "eps": "fp32"}
    fixed = {"ROWS": size.rows, "WIDTH": triton.next_power_of_2(width)}
    return _compile(add_norm, card, types, fixed, num_warps=size.warps)


def _compile(kernel: Any, card: int, types: dict[str, str], fixed: dict[str, Any], **options: int):
    """A kernel for a card that need not be there; addresses and sizes but `tokens` are multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    whole = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if name not in {*fixed, "tokens", "eps"}}
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in fixed else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs=whole,
    )
    return triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)


def page(rows: pd.DataFrame, norms: pd.DataFrame, versions: str) -> str:
    """The tables as a page of Markdown."""

    def section(rows: pd.DataFrame, columns: dict[str, str]) -> str:
        meanings = "\n".join(f"- **{name}**: {meaning}" for name, meaning in columns.items())
        return meanings + "\n\n" + "\n".join(table(rows.to_dict("records"), list(columns))).rstrip()

    return f"""# The GPU kernels, compiled

By `python -m qalib.benchmark.compiled_kernels`, {versions}. They were compiled, not run: nothing on this page is a
time.

## Products, for blocks of 32 x 32, with GELU

{section(rows, COLUMNS)}

## Residual and LayerNorm

{section(norms, NORM_COLUMNS)}
"""


if __name__ == "__main__":
    import triton

    print(write_text(Path(sys.argv[1]), page(compile_all(), compile_norms(), f"Triton {triton.__version__}")))
