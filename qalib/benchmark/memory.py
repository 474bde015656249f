"""Memory: what a model keeps while it runs, measured in a process of its own for each runtime.

That process is `python -m qalib.benchmark.memory`, given the arguments of `resident_bytes` as a JSON list.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

import pandas as pd
import psutil
import torch
from torch import nn

from qalib import runtimes
from qalib.model import checkpoint
from qalib.runtimes.forward import forward, random_inputs
from qalib.utils import machine
from qalib.utils.errors import InputError


def compare(
    model: str, names: Sequence[str] = ("dense", "block-sparse"), dtype: str = "fp32", batch: int = 1, length: int = 128
) -> pd.DataFrame:
    """What a model keeps in memory while it runs on the CPU, measured in a fresh process for each runtime.

    One row per runtime: runtime, dtype, resident_bytes (growth of the process's resident memory, from before the
    checkpoint is read until after forward passes of `batch` x `length` tokens, when all but the runtime was let go) and
    share (of the first runtime's). Raises InputError if a process fails.
    """
    found = [_apart(model, name, dtype, batch, length) for name in names]
    rows = [{"runtime": n, "dtype": dtype, "resident_bytes": b} for n, b in zip(names, found, strict=True)]
    return pd.DataFrame(rows).assign(share=lambda table: table.resident_bytes / table.resident_bytes[0])


def resident_bytes(model: str, name: str, dtype: str, batch: int, length: int) -> int:
    """What this process grows by when it runs a model under the runtime `name`, and holds nothing else of it."""
    torch.set_num_threads(1)
    nn.TransformerEncoderLayer(64, 1).eval()(torch.ones(1, 8, 64))  # libraries load on first use
    process = psutil.Process()
    before = process.memory_info().rss
    loaded = checkpoint.load(model)
    module = runtimes.build(name, loaded, "cpu", dtype)
    inputs = random_inputs(loaded, batch, length)
    del loaded
    machine.release_freed_memory()
    for _ in range(2):
        forward(module, inputs)
    return process.memory_info().rss - before


def _apart(*arguments: str | int) -> int:
    """`resident_bytes` in a process of its own, which ends by itself, whatever becomes of this one."""
    command = [sys.executable, "-m", __name__, json.dumps(arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [""]
        raise InputError(f"measuring the memory of {arguments[0]}: exit code {done.returncode}: {said[-1]}")
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(resident_bytes(*json.loads(sys.argv[1])))
