"""PTX, which Triton compiles to: what ptxas says of it, and what its inner loop is."""

import re
import subprocess
import tempfile
from pathlib import Path

PRODUCTS = ("wgmma.mma_async", "mma.sync")  # instructions for the matrix units
BARRIERS = ("bar.sync", "barrier.sync")  # wait for all warps of a program


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


def instruction(line: str) -> str:
    """The instruction of a line of PTX without its predicate, or nothing if it is a label, a remark or a directive.

    >>> instruction(" @%p1 bra $L1; // again"), instruction("$L1:"), instruction(".reg .b32 %r<9>;")
    ('bra $L1;', '', '')
    """
    found = re.match(r"\s*(?:@!?%\w+\s+)?([a-z].*?;)", line.partition("//")[0])
    return found.group(1) if found else ""


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
            loops.append([found for one in body if (found := instruction(one))])
    return next((loop for loop in loops if any(one.startswith(PRODUCTS) for one in loop)), [])
