"""The block-sparse GPU kernel compiled without a GPU: registers, spills, shared memory, what its inner loop is.

`python -m qalib.benchmark.compiled_kernels FILE.md` writes a table. Triton compiles to PTX, and the ptxas that
comes with it to machine code; nothing is run, and nothing here is a time.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from qalib.benchmark.gpu_page import table
from qalib.model.blocks import Block
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


def compile_all(block: Block = (32, 32), dtypes: Sequence[str] = ("bf16", "fp32"), progress: bool = True):
    """One row per card, type and size of `panels.tiles`, with the columns of COLUMNS."""
    cases = [(card, dtype, tile) for card in GPUS for dtype in dtypes for tile in tiles(block, TYPES[dtype])]
    bar = tqdm(cases, unit="kernel", desc="compiling", disable=not progress)
    return pd.DataFrame([row(card, dtype, block, tile) for card, dtype, tile in bar], columns=list(COLUMNS))


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
        "products": sum(line.startswith(("wgmma.mma_async", "mma.sync")) for line in loop),
        "barriers": sum(line.startswith(("bar.sync", "barrier.sync")) for line in loop),
        "per_inputs": round(len(loop) / tile.depth, 1),
        "fits": made.metadata.shared <= SHARED_MEMORY[card],
    }


def compile_kernel(card: int, dtype: str, block: Block, tile: Tile):
    """Triton's compiled kernel for a card that need not be there, for sizes that are multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from qalib.runtimes.triton_kernel import multiply

    fixed = {"HEIGHT": block[0], "WIDTH": block[1], "ROWS": tile.rows, "TOKENS": tile.tokens, "DEPTH": tile.depth,
             "GELU": True, "PRECISION": "tf32x3"}  # fmt: skip
    types = dict.fromkeys(("x", "values", "out"), f"*{dtype}")
    types |= {"bias": "*fp32"} | dict.fromkeys(("tokens", "inputs", "outputs"), "i32")
    names = multiply.arg_names
    whole = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if name not in {*fixed, "tokens"}}
    source = ASTSource(
        fn=multiply,
        signature={name: "constexpr" if name in fixed else types.get(name, "*i32") for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs=whole,
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)


def registers_and_spills(ptx: str) -> tuple[int, int]:
    """Registers of a thread, and bytes that it spills (stores and loads), as ptxas says."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE).group(1)
    path = get_ptxas(int(re.sub(r"\D", "", target))).path
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [path, "-v", f"--gpu-name={target}", str(source), "-o", str(source.with_suffix(".cubin"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    return int(re.search(r"Used (\d+) registers", said).group(1)), sum(map(int, spills))


def inner_loop(ptx: str) -> list[str]:
    """The instructions of the loop around the products of matrices, without their predicates.

    >>> inner_loop("$L1:\\n mov.b32 %r1, %r2;\\n @%p1 mma.sync.a %r3;\\n @%p2 bra $L1;\\n ret;")
    ['mov.b32 %r1, %r2;', 'mma.sync.a %r3;', 'bra $L1;']
    """
    lines = [line.partition("//")[0].strip() for line in ptx.splitlines()]
    labels = {line.rstrip(":"): number for number, line in enumerate(lines) if re.fullmatch(r"\$\w+:", line)}
    loops = []
    for number, line in enumerate(lines):
        jump = re.search(r"\bbra(?:\.uni)?\s+(\$\w+);", line)
        if jump and labels.get(jump.group(1), number) < number:
            body = lines[labels[jump.group(1)] : number + 1]
            loops.append([re.sub(r"^@!?%\w+\s+", "", one) for one in body if re.match(r"(@!?%\w+\s+)?[a-z].*", one)])
    return next((loop for loop in loops if any(one.startswith(("wgmma.mma_async", "mma.sync")) for one in loop)), [])


def page(rows: pd.DataFrame, versions: str) -> str:
    """The table as a page of Markdown."""
    meanings = "\n".join(f"- **{name}**: {meaning}" for name, meaning in COLUMNS.items())
    lines = "\n".join(table(rows.to_dict("records"), list(COLUMNS))).rstrip()
    return f"""# The block-sparse GPU kernel, compiled

By `python -m qalib.benchmark.compiled_kernels`, {versions}, for blocks of 32 x 32, with GELU. It was compiled, not run:
nothing on this page is a time.

{meanings}

{lines}
"""


if __name__ == "__main__":
    import triton

    print(write_text(Path(sys.argv[1]), page(compile_all(), f"Triton {triton.__version__}")))
