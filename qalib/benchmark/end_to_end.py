"""The whole evaluation timed, from texts to answers, in several ways side by side."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from qalib import runtimes
from qalib.benchmark.energy import EnergyMeter
from qalib.benchmark.timing import interleave
from qalib.model.checkpoint import Checkpoint
from qalib.qa.answering import Answers, answer
from qalib.qa.batching import LENGTH_SORTED, PADDED, BatchingConfig
from qalib.qa.evaluation import score_answers
from qalib.qa.squad import Question, QuestionSet
from qalib.utils import machine

WARMUP = 64  # questions, at most a quarter of all, that each way answers before it is timed


class Way(NamedTuple):
    """A way to evaluate: a runtime, its batching, and its type, by default that of the whole comparison."""

    runtime: str
    batching: BatchingConfig = LENGTH_SORTED
    dtype: str | None = None


EVALUATIONS: dict[str, Way] = {
    "usual way": Way("dense", PADDED),
    "dense, by length": Way("dense"),
    "compact, by length": Way("compact"),
    "block-sparse, by length": Way("block-sparse"),
}


def ways_of(names: Sequence[str], dtypes: Sequence[str]) -> dict[str, Way]:
    """The usual way in fp32, as transformers does it by default, then runtimes in types, in batches by length."""
    usual = {"usual way": Way("dense", PADDED, "fp32")}
    return usual | {f"{name} {dtype}": Way(name, dtype=dtype) for dtype in dtypes for name in names}


def evaluation_time(
    checkpoint: Checkpoint,
    questions: QuestionSet,
    device: str = "cpu",
    dtype: str = "auto",
    repeats: int = 3,
    progress: bool = True,
    ways: dict[str, Way] | None = None,
) -> pd.DataFrame:
    """Time the whole evaluation, texts in to answers out, in several ways (runtime, batching, type), in turn.

    Each way answers the first questions once untimed, to warm up. All are compared with the first way, by default
    (EVALUATIONS) the usual one: dense, padded to 384 tokens, batches of 32 in file order. `auto` is the faster type for
    each runtime (`runtimes.dtypes`). One row per way: way, runtime, dtype, rounds, windows, padded_tokens,
    median_seconds, spread_seconds, round_seconds, speedup (first / this, medians), share (this / first), joules
    (median; of the processor, see EnergyMeter), same_answers (share of the questions that get the first way's text),
    exact_match and f1 (%, by the official metric; none of random weights) and remark (a type that is emulated, a single
    round).
    """
    if ways is None:
        ways = {way: how for way, how in EVALUATIONS.items() if how.runtime in runtimes.available(device)}
    ways = {
        way: how if how.dtype else how._replace(dtype=runtimes.choose_dtype(dtype, how.runtime, device)[0])
        for way, how in ways.items()
    }
    pairs = dict.fromkeys((how.runtime, how.dtype) for how in ways.values())
    modules = {(name, kind): runtimes.build(name, checkpoint, device, kind) for name, kind in pairs}
    found: dict[str, Answers] = {}
    joules: dict[str, list[float | None]] = {way: [] for way in ways}

    def run(way: str, asked: Sequence[Question]) -> None:
        name, batching, kind = ways[way]
        with EnergyMeter() as used:
            found[way] = answer(modules[name, kind], checkpoint.tokenizer, asked, batching, progress=False)
        joules[way].append(used.joules)

    for way in ways:
        run(way, questions.questions[: min(WARMUP, -(-len(questions) // 4))])
    timings = interleave(
        {way: lambda way=way: run(way, questions.questions) for way in ways}, repeats, warmup=0, progress=progress
    )
    first = next(iter(ways))
    base = timings[first].median
    texts = found[first].texts
    rows = []
    for way, (name, _, kind) in ways.items():
        remarks = [f"{kind} is emulated on this device"] * machine.is_emulated(kind, device)
        remarks += ["a single round, so no spread"] * (repeats < 2)
        score = score_answers(found[way], questions, scored=not checkpoint.unscored).score
        timed = joules[way][1:]  # the first were for warming up
        rows.append(
            {
                "way": way,
                "runtime": name,
                "dtype": kind,
                "rounds": repeats,
                "windows": found[way].windows,
                "padded_tokens": found[way].padded_tokens,
                "median_seconds": timings[way].median,
                "spread_seconds": timings[way].iqr,
                "round_seconds": timings[way].seconds,
                "speedup": base / timings[way].median,
                "share": timings[way].median / base,
                "joules": None if None in timed else statistics.median(timed),
                "same_answers": sum(texts[k] == text for k, text in found[way].texts.items()) / len(texts),
                "exact_match": score.exact_match,
                "f1": score.f1,
                "remark": "; ".join(remarks),
            }
        )
    return pd.DataFrame(rows)
