"""Benchmark: how fast the runtimes are, side by side in one run.

All candidates are warmed up, then timed in turn, round after round, each round beginning with the next of them, so that
a machine that slows down affects all alike. Results are medians over the rounds, their interquartile ranges
(spread_seconds) and ratios of medians; the rounds themselves are kept.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from qalib import runtimes, sparsity
from qalib.benchmark.baseline import over_fastest_dense
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.forward import forward, random_inputs
from qalib.runtimes.peers.session import TimedOutput
from qalib.utils import machine
from qalib.utils.errors import InputError, one_line
from qalib.utils.timing import Seconds, Timing, interleave

# Largest difference of a logit from dense fp32 that is still called equal.
TOLERANCE = {"fp32": 1e-3, "tf32": 0.1, "bf16": 0.5}
SLOW = 5  # times the first candidate's last warm-up: what takes longer is timed in two rounds, to save time
GPU_ROUNDS = 50  # at least: a pass is short there
GPU_WARMUP = 4  # rounds: a compiled model records its graph in the second or third
NOT_ON_CPU = "not measured on a CPU; `benchmark.memory` does it, in a process of its own"


def compare(
    checkpoint: Checkpoint,
    names: Sequence[str] = ("dense", "compact", "block-sparse"),
    dtypes: Sequence[str] | None = None,
    batch: int = 8,
    length: int = 384,
    device: str = "cpu",
    repeats: int = 7,
    progress: bool = True,
) -> pd.DataFrame:
    """Time one forward pass of a full batch under each runtime and type, on random tokens without padding or mask.

    `dtypes` are by default those that the device computes in hardware; on a GPU that has tf32, dense is timed in that
    too, beside fp32. On a GPU there are at least GPU_ROUNDS rounds. One row per runtime and type:

    - runtime, dtype, device, threads, batch, length, rounds;
    - median_seconds, spread_seconds, p99_seconds (99th percentile, of 100 rounds or more), round_seconds (of each
      round), tokens_per_second, gflops (10^9 multiplications and additions a second, of the weights and heads that the
      runtime does multiply);
    - speedup (over `baseline`, dense of the same type, in this run) and speedup_over_best (over `best_baseline`, see
      `baseline.over_fastest_dense`);
    - bound (the multiply-add ratio: the speedup if only those of kept blocks and heads counted) and bound_reached
      (speedup / bound, of runtimes that skip zeros);
    - weight_bytes (of parameters and buffers, where torch holds them), peak_bytes (on a GPU, of the memory allocated
      from before the module is made to the end of its first pass, less what was there before; peak_note says why there
      is none), kernel (what multiplies blocks),
      logit_difference (largest, from dense fp32; checked before timing);
    - note: why a runtime that cannot run here, or failed, has no figures; remark: a caveat about
      figures that are there.

    Raises InputError for unknown names, sizes that do not fit, or a runtime whose logits are not those of dense; one
    of another library has a note instead.
    """
    most = bert.max_tokens(checkpoint.model)
    if batch < 1 or not 1 <= length <= most:
        raise InputError(f"batch {batch} x length {length}: at least 1 window of 1 to {most} tokens is needed")
    dtypes = machine.hardware_dtypes(device) if dtypes is None else dtypes
    pairs, (repeats, warmup) = candidates(names, dtypes, device), round_counts(repeats, device)
    notes = {pair: runtimes.unavailable_reason(pair[0], device, pair[1]) for pair in pairs}
    inputs = {name: tensor.to(device) for name, tensor in random_inputs(checkpoint, batch, length).items()}
    expected = _logits(runtimes.build("dense", checkpoint, device), inputs)
    modules, differences, peaks = {}, {}, {}
    for name, dtype in (pair for pair in pairs if notes[pair] is None):
        try:
            with PeakMemory(device) as peak:
                module = runtimes.build(name, checkpoint, device, dtype)
                logits = _logits(module, inputs)
        except Exception as error:  # from a compiler, a GPU out of memory, or blocks that a kernel does not take
            if name == "dense":
                raise
            notes[name, dtype] = f"failed: {one_line(error)}"  # the others are timed
            continue
        try:
            differences[name, dtype] = difference(name, dtype, logits, expected)
        except InputError as error:
            kind = runtimes.REGISTRY[name]
            if not (kind.peer or kind.opt_in and not kind.sparse):  # ours
                raise
            notes[name, dtype] = one_line(error)
            continue
        modules[name, dtype], peaks[name, dtype] = module, peak.bytes
    passes = {pair: partial(_timed_pass, module, inputs) for pair, module in modules.items()}
    timings = interleave(passes, repeats, warmup, progress, slow=SLOW)
    work = batch * sparsity.multiply_adds(checkpoint, length)[["dense", "compact", "sparse"]].sum()
    rows = []
    for name, dtype in pairs:
        row = {"runtime": name, "dtype": dtype, "device": device, "threads": torch.get_num_threads(), "batch": batch,
               "length": length, "rounds": 0, "baseline": f"dense {dtype}"}  # fmt: skip
        if (name, dtype) in modules:
            row |= _speed(name, timings[name, dtype], timings["dense", dtype], work, batch * length)
            row |= {
                "weight_bytes": None if runtimes.REGISTRY[name].peer else weight_bytes(modules[name, dtype]),
                "peak_bytes": peaks[name, dtype],
                "peak_note": NOT_ON_CPU if device == "cpu" else "",
                "kernel": runtimes.kernel(modules[name, dtype]),
                "logit_difference": differences[name, dtype],
                "remark": runtimes.REGISTRY[name].caveat(checkpoint, modules[name, dtype]),
            }
        rows.append(row | {"note": notes[name, dtype] or ""})
    return _with_remarks(over_fastest_dense(pd.DataFrame(rows)), repeats)


def _speed(name: str, timing: Timing, dense: Timing, work: pd.Series, tokens: int) -> dict[str, Any]:
    """The columns that follow from a runtime's times, those of dense, and the multiply-adds of a pass (`work`)."""
    sparse = runtimes.REGISTRY[name].sparse
    speedup = dense.median / timing.median
    bound = work["dense"] / work["sparse"] if sparse else 1.0
    multiplied = "dense" if not sparse else "compact" if name == "compact" else "sparse"
    return {
        "rounds": len(timing.seconds),
        "median_seconds": timing.median,
        "spread_seconds": timing.iqr,
        "p99_seconds": timing.p99,
        "round_seconds": timing.seconds,
        "tokens_per_second": tokens / timing.median,
        "gflops": 2e-9 * work[multiplied] / timing.median,
        "speedup": speedup,
        "bound": bound,
        "bound_reached": speedup / bound if sparse else None,
    }


def candidates(names: Sequence[str], dtypes: Sequence[str], device: str) -> list[tuple[str, str]]:
    """Runtimes and types to time: dense in each type, and in tf32 too, beside fp32, on a GPU that has it."""
    pairs = [(name, dtype) for dtype in dtypes for name in dict.fromkeys(["dense", *names])]
    beside = device == "cuda" and machine.has_tf32() and "fp32" in dtypes and "tf32" not in dtypes
    return pairs + [("dense", "tf32")] * beside


def round_counts(repeats: int, device: str) -> tuple[int, int]:
    """How many rounds are timed, and how many before them are not."""
    return (repeats, 1) if device == "cpu" or repeats < 1 else (max(repeats, GPU_ROUNDS), GPU_WARMUP)


def difference(name: str, dtype: str, logits: Tensor, expected: Tensor) -> float:
    """The largest difference of logits from those of dense fp32.

    Raises InputError if one is not a number, or too different where the runtime is to be exact.
    """
    largest = (logits - expected).abs().max().item()
    if largest != largest:
        raise InputError(f"runtime {name} in {dtype}: a logit is not a number; it is not timed")
    if runtimes.REGISTRY[name].exact and not largest <= TOLERANCE[dtype]:
        raise InputError(f"runtime {name} in {dtype}: a logit differs from dense by {largest:.2g}; it is not timed")
    return largest


class PeakMemory:
    """In a `with` block: the most bytes allocated on the GPU at a time, less those before; None on a CPU."""

    def __init__(self, device: str):
        self.on_gpu = device == "cuda"
        self.bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *error: object) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self.before


def _with_remarks(rows: pd.DataFrame, repeats: int) -> pd.DataFrame:
    """The rows with a remark where a figure could mislead: emulated types, speedups beyond the ratio, few rounds."""
    pace = {row["dtype"]: row.gflops for _, row in rows[rows.runtime == "dense"].iterrows()}
    remarks = []
    for _, row in rows.iterrows():
        caveats = []
        if row.median_seconds == row.median_seconds:  # not NaN: it was run
            caveats += [row.remark] * bool(row.remark)
            if runtimes.is_emulated(row["dtype"], row.runtime, row.device):
                caveats.append(f"{row['dtype']} is emulated on this device")
            if runtimes.REGISTRY[row.runtime].sparse and row.speedup > row.bound:
                caveats.append(
                    f"beyond the multiply-add ratio: it multiplies at {row.gflops:.0f} GFLOP/s, dense {row['dtype']} "
                    f"only at {pace[row['dtype']]:.0f}"
                )
            if 1 < row.rounds < repeats:
                caveats.append(f"{row.rounds} rounds instead of {repeats}: a pass is slow")
            if row.rounds < 2:
                caveats.append("a single round, so no spread")
        remarks.append("; ".join(caveats))
    return rows.assign(remark=remarks)


def _timed_pass(module: nn.Module, inputs: dict[str, Tensor]) -> Seconds | None:
    """Run one forward pass; return its seconds if the output has them, as that of another process does."""
    output = forward(module, inputs)
    return Seconds(output.seconds) if isinstance(output, TimedOutput) and output.seconds is not None else None


def _logits(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output = forward(module, inputs)
    return torch.stack([cast(Tensor, output.start_logits), cast(Tensor, output.end_logits)]).float().cpu()


def weight_bytes(module: nn.Module) -> int | None:
    """Bytes of the parameters and buffers that a module holds; None if another library holds them."""
    values = module.state_dict().values()
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]  # packed weights
    storages = [part.untyped_storage() for part in parts if isinstance(part, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) or None
