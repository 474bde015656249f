"""Benchmark: how fast the runtimes are, side by side in one run.

All candidates are warmed up, then timed in turn, round after round, so that a machine that slows down slows down all
of them. Quoted are medians over the rounds, their spread (the distance between the quartiles), and ratios of medians.
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
from qalib.qa.squad import QuestionSet
from qalib.utils import machine
from qalib.utils.errors import InputError

Key = TypeVar("Key")
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
    """Time the candidates in turn: `warmup` rounds that do not count, then `repeats` that do.

    Raises InputError for less than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"{repeats} repeats after {warmup} rounds of warm-up: at least 1 and 0 are needed")
    seconds: dict[Key, list[float]] = {name: [] for name in candidates}
    for round_number in tqdm(range(warmup + repeats), unit="round", desc="timing", disable=not progress):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def compare(
    checkpoint: Checkpoint,
    names: Sequence[str] = ("dense", "compact", "block-sparse"),
    dtypes: Sequence[str] = ("fp32",),
    batch: int = 8,
    length: int = 384,
    device: str = "cpu",
    repeats: int = 7,
    progress: bool = True,
) -> pd.DataFrame:
    """Time one forward pass of a full batch under each runtime and type, on random tokens without padding.

    One row a pair: runtime, dtype, device, threads, batch, length, rounds, median_seconds, spread_seconds,
    tokens_per_second, speedup (over `baseline`, dense of the same type, in this run), bound (the speedup if only the
    multiply-adds of kept blocks and heads counted), bound_reached (speedup / bound, of runtimes that skip zeros),
    weight_bytes (of parameters and buffers, where torch holds them), kernel (what multiplies blocks), logit_difference
    (largest, from dense fp32; checked before timing) and note: why a runtime that cannot run here has no figures.
    Raises InputError for unknown names, sizes that do not fit, or a runtime whose logits are not those of dense.
    """
    most = checkpoint.model.config.max_position_embeddings
    if batch < 1 or not 1 <= length <= most:
        raise InputError(f"batch {batch} x length {length}: at least 1 window of 1 to {most} tokens is needed")
    pairs = [(name, dtype) for dtype in dtypes for name in dict.fromkeys(["dense", *names])]
    notes = {pair: runtimes.reason(pair[0], device, pair[1]) for pair in pairs}
    modules = {(n, t): runtimes.build(n, checkpoint, device, t) for n, t in pairs if notes[n, t] is None}
    inputs = {name: tensor.to(device) for name, tensor in tokens(checkpoint, batch, length).items()}
    expected = _logits(runtimes.build("dense", checkpoint, device), inputs)
    differences = {pair: (_logits(module, inputs) - expected).abs().max().item() for pair, module in modules.items()}
    for (name, dtype), difference in differences.items():
        if runtimes.REGISTRY[name].exact and not difference <= TOLERANCE[dtype]:
            raise InputError(
                f"runtime {name} in {dtype}: a logit differs from dense by {difference:.2g}; it is not timed"
            )
    passes = {pair: lambda module=module: forward(module, inputs) for pair, module in modules.items()}
    timings = interleave(passes, repeats, progress=progress)
    work = sparsity.multiply_adds(checkpoint, length)[["dense", "sparse"]].sum()
    rows = []
    for name, dtype in pairs:
        row = {"runtime": name, "dtype": dtype, "device": device, "threads": torch.get_num_threads(), "batch": batch,
               "length": length, "rounds": repeats, "baseline": f"dense {dtype}"}  # fmt: skip
        if (name, dtype) in modules:
            timing, base, kind = timings[name, dtype], timings["dense", dtype], runtimes.REGISTRY[name]
            speedup, bound = base.median / timing.median, work["dense"] / work["sparse"] if kind.sparse else 1.0
            row |= {
                "median_seconds": timing.median,
                "spread_seconds": timing.spread,
                "tokens_per_second": batch * length / timing.median,
                "speedup": speedup,
                "bound": bound,
                "bound_reached": speedup / bound if kind.sparse else None,
                "weight_bytes": None if kind.peer else weight_bytes(modules[name, dtype]),
                "kernel": runtimes.kernel(modules[name, dtype]),
                "logit_difference": differences[name, dtype],
            }
        rows.append(row | {"note": notes[name, dtype] or ""})
    return pd.DataFrame(rows)


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
    dtype: str = "fp32",
    repeats: int = 3,
    progress: bool = True,
    ways: dict[str, tuple[str, Protocol]] | None = None,
) -> pd.DataFrame:
    """Time the whole evaluation, texts in to answers out, in several ways (runtime and protocol), in turn.

    The others are held against the first way, by default (EVALUATIONS) the usual one: dense, padded to 384 tokens,
    batches of 32 in file order. One row a way: way, runtime, windows, padded_tokens, median_seconds, spread_seconds,
    speedup (first / this, medians), share (this / first), same_answers (share of the questions that get the first way's
    text).
    """
    if ways is None:
        ways = {way: how for way, how in EVALUATIONS.items() if how[0] in runtimes.available(device)}
    modules = {name: runtimes.build(name, checkpoint, device, dtype) for name, _ in ways.values()}
    found: dict[str, Answers] = {}

    def run(way: str) -> None:
        name, protocol = ways[way]
        found[way] = answer(modules[name], checkpoint.tokenizer, questions.questions, protocol, progress=False)

    timings = interleave({way: lambda way=way: run(way) for way in ways}, repeats, warmup=0, progress=progress)
    first = next(iter(ways))
    base, texts = timings[first].median, found[first].texts
    rows = [
        {
            "way": way,
            "runtime": name,
            "windows": found[way].windows,
            "padded_tokens": found[way].padded_tokens,
            "median_seconds": timings[way].median,
            "spread_seconds": timings[way].spread,
            "speedup": base / timings[way].median,
            "share": timings[way].median / base,
            "same_answers": sum(texts[k] == text for k, text in found[way].texts.items()) / len(texts),
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
