"""Costs: what a forward pass costs with zeros in one place or another, and where its time goes."""

import copy
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.bert.modeling_bert import BertSelfAttention

from qalib import runtimes, sparsity
from qalib.benchmark.latency import forward, tokens
from qalib.benchmark.timing import interleave
from qalib.model import bert, checkpoint
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import magnitude
from qalib.runtimes.block_sparse import AttentionProducts, BlockSparseLinear
from qalib.utils import machine
from qalib.utils.errors import InputError

# Parts of a forward pass by the modules that do them; a module's own time is without that of the modules in it.
PARTS = {
    "linear layers": (nn.Linear, BlockSparseLinear),
    "attention products": (BertSelfAttention, AttentionProducts),
    "GELU": GELUActivation,
    "layer norms": nn.LayerNorm,
}


def filled(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """A copy without zeros: random weights stand where the encoder matrices have none. For times, not for answers."""
    full = replace(checkpoint, model=copy.deepcopy(checkpoint.model))
    generator = torch.Generator().manual_seed(seed)
    for matrix in bert.matrices(full.model):
        weight = matrix.linear.weight.data
        fresh = 0.02 * torch.randn(weight.shape, generator=generator)
        weight.copy_(torch.where(weight == 0, fresh, weight))
    return full


def side_by_side(
    checkpoint: Checkpoint,
    names: Sequence[str] = ("compact", "block-sparse"),
    batch: int = 4,
    length: int = 128,
    repeats: int = 7,
    progress: bool = True,
) -> pd.DataFrame:
    """Time one forward pass of the same shape with zeros nowhere, scattered, in blocks, and under other runtimes.

    Scattered zeros are as many as the checkpoint's. One row a candidate: candidate, zeros (share of the encoder
    weights that are stored as zeros), median_seconds, spread_seconds, speedup (over no zeros, medians of the same run)
    and bound (all multiply-adds / those that are not by zero).
    """
    full = filled(checkpoint)
    scattered = magnitude.prune(full, sparsity.density(checkpoint, (1, 1)), magnitude.GRANULARITIES["single weights"])
    modules = {
        "dense: no zeros": runtimes.build("dense", full),
        "dense: zeros scattered": runtimes.build("dense", scattered),
        "dense: zeros in blocks": runtimes.build("dense", checkpoint),
    } | {f"{name}: zeros in blocks": runtimes.build(name, checkpoint) for name in names}
    inputs = tokens(checkpoint, batch, length)
    runs = {name: lambda module=module: forward(module, inputs) for name, module in modules.items()}
    timings = interleave(runs, repeats, progress=progress)
    work = sparsity.multiply_adds(checkpoint, length).set_index("part")
    skipped = (1 - sparsity.density(checkpoint, (1, 1))) * work["dense"]["encoder matrices"]
    scattered_bound = work["dense"].sum() / (work["dense"].sum() - skipped)
    bounds = {
        "no zeros": 1.0,
        "zeros scattered": scattered_bound,
        "zeros in blocks": work["dense"].sum() / work["sparse"].sum(),
    }
    base = timings["dense: no zeros"].median
    rows = [
        {
            "candidate": name,
            "zeros": _zeros(module),
            "median_seconds": timings[name].median,
            "spread_seconds": timings[name].spread,
            "speedup": base / timings[name].median,
            "bound": float(bounds[name.split(": ")[1]]),
        }
        for name, module in modules.items()
    ]
    return pd.DataFrame(rows)


def parts(modules: Mapping[str, nn.Module], inputs: dict[str, Tensor], rounds: int = 7) -> pd.DataFrame:
    """Milliseconds of a forward pass on the CPU: a row a part (PARTS and "the rest"), a column a module.

    As in `benchmark.interleave` every round runs each module once, after one that is not counted; medians.
    """
    found = [{name: _clocked(module, inputs) for name, module in modules.items()} for _ in range(rounds + 1)][1:]
    medians = {name: pd.DataFrame(run[name] for run in found).median() for name in modules}
    return 1000 * pd.DataFrame(medians)


def _clocked(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Seconds of one forward pass by part."""
    names = {m: name for m in module.modules() for name, kind in PARTS.items() if isinstance(m, kind)}
    times, running = dict.fromkeys([*PARTS, "the rest"], 0.0), ["the rest"]
    last = 0.0

    def turn() -> None:  # the time since the last turn was spent in the part that was running
        nonlocal last
        now = time.perf_counter()
        times[running[-1]] += now - last
        last = now

    def enter(entered: nn.Module, _) -> None:
        turn()
        running.append(names[entered])

    def leave(*_) -> None:
        turn()
        running.pop()

    hooks = [m.register_forward_pre_hook(enter) for m in names] + [m.register_forward_hook(leave) for m in names]
    last = time.perf_counter()
    forward(module, inputs)
    turn()
    for hook in hooks:
        hook.remove()
    return times


def memory(
    model: str, names: Sequence[str] = ("dense", "block-sparse"), dtype: str = "fp32", batch: int = 1, length: int = 128
) -> pd.DataFrame:
    """What a model keeps in memory while it runs on the CPU, measured in a fresh process for each runtime.

    One row a runtime: runtime, dtype, resident_bytes (growth of the process's resident memory, from before the
    checkpoint is read until after forward passes of `batch` x `length` tokens, when all but the runtime was let go) and
    share (of the first runtime's).
    """
    found = [_apart(model, name, dtype, batch, length) for name in names]
    rows = [{"runtime": n, "dtype": dtype, "resident_bytes": b} for n, b in zip(names, found, strict=True)]
    return pd.DataFrame(rows).assign(share=lambda table: table.resident_bytes / table.resident_bytes[0])


def _apart(*arguments: str | int) -> int:
    """`_resident` in a process of its own, which ends when it is done, whatever becomes of this one."""
    code = "import json, sys; from qalib.benchmark import profile; print(profile._resident(*json.loads(sys.argv[1])))"
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [""]
        raise InputError(f"measuring the memory of {arguments[0]}: exit code {done.returncode}: {said[-1]}")
    return int(done.stdout.splitlines()[-1])


def _resident(model: str, name: str, dtype: str, batch: int, length: int) -> int:
    torch.set_num_threads(1)
    nn.TransformerEncoderLayer(64, 1).eval()(torch.ones(1, 8, 64))  # libraries load on first use
    process = psutil.Process()
    before = process.memory_info().rss
    loaded = checkpoint.load(model)
    module, inputs = runtimes.build(name, loaded, "cpu", dtype), tokens(loaded, batch, length)
    del loaded
    machine.trim()
    for _ in range(2):
        forward(module, inputs)
    return process.memory_info().rss - before


def _zeros(module: nn.Module) -> float:
    matrices = [p for n, p in module.named_parameters() if p.ndim == 2 and "encoder" in n]
    return sum(int((m == 0).sum()) for m in matrices) / max(1, sum(m.numel() for m in matrices))
