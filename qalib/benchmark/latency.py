"""Benchmark: how fast the runtimes are, side by side in one run.

All candidates are warmed up, then timed in turn, round after round, each round beginning with the next of them, so that
a machine that slows down slows down all. Quoted are medians over the rounds, their spread (the distance between the
quartiles), and ratios of medians; the rounds themselves are kept.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qalib import runtimes, sparsity
from qalib.model.checkpoint import Checkpoint
from qalib.qa.evaluation import OURS, USUAL, Answers, Protocol, answer
from qalib.qa.squad import Question, QuestionSet
from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.quantity import measure

Key = TypeVar("Key")
WARMUP = 64  # questions, a quarter of all at most, that a way to evaluate answers before it is timed
TOLERANCE = {"fp32": 1e-3, "bf16": 0.5}  # largest difference of a logit from dense fp32 that is still called equal


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the first and third quartile in seconds (0 for a single round)."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return third - first


def interleave(
    candidates: dict[Key, Callable[[], object]], repeats: int = 7, warmup: int = 1, progress: bool = True
) -> dict[Key, Timing]:
    """Time the candidates in turn: `warmup` rounds that do not count, then `repeats` that do. Seconds.

    Raises InputError for less than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"{repeats} repeats after {warmup} rounds of warm-up: at least 1 and 0 are needed")
    seconds: dict[Key, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    with tqdm(total=(warmup + repeats) * len(order), unit="pass", desc="timing", disable=not progress) as bar:
        for round_number in range(warmup + repeats):
            for name in order:
                bar.set_postfix_str(f"round {round_number + 1} of {warmup + repeats}: {name}")
                started = time.perf_counter()
                candidates[name]()
                if round_number >= warmup:
                    seconds[name].append(time.perf_counter() - started)
                bar.update()
            order = order[1:] + order[:1]
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


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
    """Time one forward pass of a full batch under each runtime and type, on random tokens without padding.

    `dtypes` are by default those that the device computes in hardware. One row a pair of runtime and type:

    - runtime, dtype, device, threads, batch, length, rounds;
    - median_seconds, spread_seconds, round_seconds (of each round), tokens_per_second, gflops (10^9 multiplications and
      additions a second, of the weights and heads that the runtime does multiply);
    - speedup (over `baseline`, dense of the same type, in this run) and speedup_over_best (over `best_baseline`, the
      fastest way of the run that multiplies every zero and keeps the answers, whatever its type or library);
    - bound (the speedup if only the multiply-adds of kept blocks and heads counted) and bound_reached (speedup /
      bound, of runtimes that skip zeros);
    - weight_bytes (of parameters and buffers, where torch holds them), kernel (what multiplies blocks),
      logit_difference (largest, from dense fp32; checked before timing);
    - note: why a runtime that cannot run here has no figures; remark: what is to be known of figures that are there.

    Raises InputError for unknown names, sizes that do not fit, or a runtime whose logits are not those of dense.
    """
    most = checkpoint.model.config.max_position_embeddings
    if batch < 1 or not 1 <= length <= most:
        raise InputError(f"batch {batch} x length {length}: at least 1 window of 1 to {most} tokens is needed")
    dtypes = machine.hardware_dtypes(device) if dtypes is None else dtypes
    pairs = [(name, dtype) for dtype in dtypes for name in dict.fromkeys(["dense", *names])]
    notes = {pair: runtimes.reason(pair[0], device, pair[1]) for pair in pairs}
    modules = {(n, t): runtimes.build(n, checkpoint, device, t) for n, t in pairs if notes[n, t] is None}
    inputs = {name: tensor.to(device) for name, tensor in tokens(checkpoint, batch, length).items()}
    differences = _differences(checkpoint, modules, inputs, device)
    passes = {pair: lambda module=module: forward(module, inputs) for pair, module in modules.items()}
    timings = interleave(passes, repeats, progress=progress)
    work = batch * sparsity.multiply_adds(checkpoint, length)[["dense", "compact", "sparse"]].sum()
    rows = []
    for name, dtype in pairs:
        row = {"runtime": name, "dtype": dtype, "device": device, "threads": torch.get_num_threads(), "batch": batch,
               "length": length, "rounds": repeats, "baseline": f"dense {dtype}"}  # fmt: skip
        if (name, dtype) in modules:
            timing, base, kind = timings[name, dtype], timings["dense", dtype], runtimes.REGISTRY[name]
            speedup = base.median / timing.median
            bound = work["dense"] / work["sparse"] if kind.sparse else 1.0
            multiplied = "dense" if not kind.sparse else "compact" if name == "compact" else "sparse"
            row |= {
                "median_seconds": timing.median,
                "spread_seconds": timing.spread,
                "round_seconds": timing.seconds,
                "tokens_per_second": batch * length / timing.median,
                "gflops": 2e-9 * work[multiplied] / timing.median,
                "speedup": speedup,
                "bound": bound,
                "bound_reached": speedup / bound if kind.sparse else None,
                "weight_bytes": None if kind.peer else weight_bytes(modules[name, dtype]),
                "kernel": runtimes.kernel(modules[name, dtype]),
                "logit_difference": differences[name, dtype],
            }
        rows.append(row | {"note": notes[name, dtype] or ""})
    return _with_remarks(_over_best(pd.DataFrame(rows)))


def _differences(
    checkpoint: Checkpoint, modules: dict[tuple[str, str], nn.Module], inputs: dict[str, Tensor], device: str
) -> dict[tuple[str, str], float]:
    """The largest difference of a logit from dense fp32. Raises InputError where an exact runtime's is too large."""
    expected = _logits(runtimes.build("dense", checkpoint, device), inputs)
    found = {pair: (_logits(module, inputs) - expected).abs().max().item() for pair, module in modules.items()}
    for (name, dtype), difference in found.items():
        if runtimes.REGISTRY[name].exact and not difference <= TOLERANCE[dtype]:
            raise InputError(
                f"runtime {name} in {dtype}: a logit differs from dense by {difference:.2g}; it is not timed"
            )
    return found


def _over_best(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the best that one would otherwise have: the fastest dense way that keeps the answers."""
    dense = rows.runtime.map(lambda name: runtimes.REGISTRY[name].exact and not runtimes.REGISTRY[name].sparse)
    best = rows[dense & rows.median_seconds.notna()].sort_values("median_seconds").iloc[0]
    return rows.assign(
        best_baseline=f"{best.runtime} {best['dtype']}", speedup_over_best=best.median_seconds / rows.median_seconds
    )


def _with_remarks(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a remark where a figure could mislead: an emulated type, a speedup beyond its bound, one round."""
    pace = {row["dtype"]: row.gflops for _, row in rows[rows.runtime == "dense"].iterrows()}
    remarks = []
    for _, row in rows.iterrows():
        said = []
        if row.median_seconds == row.median_seconds:  # not NaN: it was run
            if machine.is_emulated(row["dtype"], row.device):
                said.append(f"{row['dtype']} is emulated on this device")
            if runtimes.REGISTRY[row.runtime].sparse and row.speedup > row.bound:
                said.append(
                    f"beyond the bound, as it multiplies at {row.gflops:.0f} GFLOP/s where dense {row['dtype']} has "
                    f"{pace[row['dtype']]:.0f}"
                )
            if row.rounds < 2:
                said.append("a single round, so without a spread")
        remarks.append("; ".join(said))
    return rows.assign(remark=remarks)


@dataclass(frozen=True)
class Headline:
    """What a card says of a table of `compare`: each runtime in its fastest type. None where it was not run."""

    timed: str = measure("text", "what the forward-pass speedups time")
    rounds: int = measure("count", "timed rounds, after one of warm-up")
    baseline: str = measure("text", "the fastest dense way of this run that keeps the answers, of any type")
    bound: float = measure("x", "multiply-adds dense / sparse: the speedup if nothing else took time")
    compact_dtype: str | None = measure("text", "the type in which compact is fastest")
    compact_speedup: float | None = measure("x", "baseline / compact, median seconds of one forward pass")
    compact_speedup_same_type: float | None = measure("x", "dense of the same type / compact, median seconds")
    block_sparse_dtype: str | None = measure("text", "the type in which block-sparse is fastest")
    block_sparse_speedup: float | None = measure("x", "baseline / block-sparse, median seconds of one forward pass")
    block_sparse_speedup_same_type: float | None = measure("x", "dense of the same type / block-sparse, median seconds")
    kernel: str | None = measure("text", "what multiplied the blocks of block-sparse")
    speed_remark: str | None = measure("text", "what is to be known of block-sparse's speedup")


def headline(rows: pd.DataFrame, device: str) -> Headline:
    """The figures for a card from a table of `compare` that holds rows of the device."""
    here = rows[(rows.device == device) & rows.median_seconds.notna()].sort_values("median_seconds")
    fastest = here.drop_duplicates("runtime").set_index("runtime")
    fastest = fastest.astype(object).to_dict("index")
    compact, sparse = fastest.get("compact", {}), fastest.get("block-sparse", {})
    first = here.iloc[0]
    return Headline(
        timed=f"one forward pass of {first.batch} x {first.length} random tokens on the {device}",
        rounds=int(first.rounds),
        baseline=first.best_baseline,
        bound=float(here.bound.max()),
        compact_dtype=compact.get("dtype"),
        compact_speedup=compact.get("speedup_over_best"),
        compact_speedup_same_type=compact.get("speedup"),
        block_sparse_dtype=sparse.get("dtype"),
        block_sparse_speedup=sparse.get("speedup_over_best"),
        block_sparse_speedup_same_type=sparse.get("speedup"),
        kernel=sparse.get("kernel"),
        speed_remark=sparse and (sparse["remark"] or "none") or None,
    )


def tokens(checkpoint: Checkpoint, batch: int, length: int) -> dict[str, Tensor]:
    """Random tokens without padding, each tensor of shape `(batch, length)`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(checkpoint.model.config.vocab_size, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def forward(module: nn.Module, inputs: dict[str, Tensor]) -> QuestionAnsweringModelOutput:
    """One forward pass without gradients, to its end."""
    with torch.inference_mode():
        output = module(**inputs)
        if inputs["input_ids"].is_cuda:
            torch.cuda.synchronize()
    return output


def _logits(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output = forward(module, inputs)
    return torch.stack([output.start_logits, output.end_logits]).float().cpu()


def weight_bytes(module: nn.Module) -> int | None:
    """Bytes of the parameters and buffers that a module holds; None if another library holds them."""
    held = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in module.state_dict().values()}
    return sum(held.values()) or None


EVALUATIONS: dict[str, tuple[str, Protocol]] = {
    "usual way": ("dense", USUAL),
    "dense, by length": ("dense", OURS),
    "compact, by length": ("compact", OURS),
    "block-sparse, by length": ("block-sparse", OURS),
}


def evaluation_time(
    checkpoint: Checkpoint,
    questions: QuestionSet,
    device: str = "cpu",
    dtype: str = "auto",
    repeats: int = 3,
    progress: bool = True,
    ways: dict[str, tuple[str, Protocol]] | None = None,
) -> pd.DataFrame:
    """Time the whole evaluation, texts in to answers out, in several ways (runtime and protocol), in turn.

    Each way answers the first questions once before, which is not timed. The others are held against the first way, by
    default (EVALUATIONS) the usual one: dense, padded to 384 tokens, batches of 32 in file order. `auto` is the fastest
    type of the device. One row a way: way, runtime, dtype, rounds, windows, padded_tokens, median_seconds,
    spread_seconds, round_seconds, speedup (first / this, medians), share (this / first), same_answers (share of the
    questions that get the first way's text) and remark (a type that is emulated, a single round).
    """
    if ways is None:
        ways = {way: how for way, how in EVALUATIONS.items() if how[0] in runtimes.available(device)}
    dtype = machine.dtype(dtype, device)
    modules = {name: runtimes.build(name, checkpoint, device, dtype) for name, _ in ways.values()}
    found: dict[str, Answers] = {}

    def run(way: str, asked: Sequence[Question]) -> None:
        name, protocol = ways[way]
        found[way] = answer(modules[name], checkpoint.tokenizer, asked, protocol, progress=False)

    for way in ways:
        run(way, questions.questions[: min(WARMUP, -(-len(questions) // 4))])
    timings = interleave(
        {way: lambda way=way: run(way, questions.questions) for way in ways}, repeats, warmup=0, progress=progress
    )
    first = next(iter(ways))
    base, texts = timings[first].median, found[first].texts
    remarks = [f"{dtype} is emulated on this device"] * machine.is_emulated(dtype, device)
    remarks += ["a single round, so without a spread"] * (repeats < 2)
    rows = [
        {
            "way": way,
            "runtime": name,
            "dtype": dtype,
            "rounds": repeats,
            "windows": found[way].windows,
            "padded_tokens": found[way].padded_tokens,
            "median_seconds": timings[way].median,
            "spread_seconds": timings[way].spread,
            "round_seconds": timings[way].seconds,
            "speedup": base / timings[way].median,
            "share": timings[way].median / base,
            "same_answers": sum(texts[k] == text for k, text in found[way].texts.items()) / len(texts),
            "remark": "; ".join(remarks),
        }
        for way, (name, _) in ways.items()
    ]
    return pd.DataFrame(rows)


def best(rows: pd.DataFrame) -> dict[str, Any]:
    """The fastest of ours and of other libraries' runtimes in one table of `compare`, whatever their types.

    Keys: ours, peer (names and types, or None) and ratio (peer / ours, median seconds; None without a peer).
    """
    timed = rows[rows.median_seconds.notna()].sort_values("median_seconds")
    peers = timed.runtime.map(lambda name: runtimes.REGISTRY[name].peer)
    ours, others = timed[~peers].iloc[0], timed[peers]
    return {
        "ours": f"{ours.runtime} {ours['dtype']}",
        "peer": None if others.empty else f"{others.iloc[0].runtime} {others.iloc[0]['dtype']}",
        "ratio": None if others.empty else others.iloc[0].median_seconds / ours.median_seconds,
    }


def report(rows: pd.DataFrame) -> dict:
    """The rows with the machine they were measured on, as plain values: what was not measured is None."""
    plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return {"machine": machine.specs(), "versions": machine.versions(), "best": best(rows), "rows": plain}
