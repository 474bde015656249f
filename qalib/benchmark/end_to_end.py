"""The whole evaluation timed, from texts to answers, in several ways side by side."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from qalib import runtimes
from qalib.benchmark.baseline import over_fastest_dense
from qalib.benchmark.energy import EnergyMeter
from qalib.model.checkpoint import Checkpoint
from qalib.qa.answering import Answers, answer
from qalib.qa.batching import LENGTH_SORTED, PADDED, BatchingConfig
from qalib.qa.evaluation import score_answers
from qalib.qa.squad import Question, QuestionSet
from qalib.utils import machine
from qalib.utils.timing import interleave

WARMUP = 64  # questions, at most a quarter of all, that each way answers before it is timed


class Way(NamedTuple):
    """A way to evaluate: a runtime, its batching, and its type, by default that of the whole comparison."""

    runtime: str
    batching: BatchingConfig = LENGTH_SORTED
    dtype: str | None = None


USUAL = "usual way"


def ways_of(names: Sequence[str], dtypes: Sequence[str]) -> dict[str, Way]:
    """The usual way, as transformers does it by default, then dense and other runtimes in batches by length.

    USUAL is dense in fp32, every window padded to 384 tokens, in batches of 32 in file order.
    """
    usual = {USUAL: Way("dense", PADDED, "fp32")}
    pairs = [(name, dtype) for dtype in dtypes for name in dict.fromkeys(("dense", *names))]
    return usual | {f"{name} {dtype}, by length": Way(name, dtype=dtype) for name, dtype in pairs}


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

    Each way answers the first questions once untimed, to warm up. `ways` are by default those of `ways_of` with
    compact and the best runtime, in `dtype` or, if that is `auto`, in every type that the device computes in hardware;
    it is also the type of ways without one. One row per way: way, runtime, dtype, rounds, windows, padded_tokens,
    median_seconds, spread_seconds, round_seconds, speedup (over dense of the same type and batching, if it was timed),
    best_baseline and speedup_over_best (see `baseline.over_fastest_dense`), joules (median; of the processor, see
    EnergyMeter), same_answers (share of the questions that get the first way's text), exact_match and f1 (%, by the
    official metric; none of random weights) and remark (a type that is emulated, a single round).
    """
    if ways is None:
        dtypes = machine.hardware_dtypes(device) if dtype == "auto" else [dtype]
        ways = ways_of(("compact", runtimes.best(device)), dtypes)
    chosen = {
        way: (how.runtime, how.batching, how.dtype or runtimes.choose_dtype(dtype, how.runtime, device)[0])
        for way, how in ways.items()
    }
    pairs = dict.fromkeys((name, kind) for name, _, kind in chosen.values())
    alike = {(batching, kind): way for way, (name, batching, kind) in reversed(chosen.items()) if name == "dense"}
    modules = {(name, kind): runtimes.build(name, checkpoint, device, kind) for name, kind in pairs}
    found: dict[str, Answers] = {}
    joules: dict[str, list[float | None]] = {way: [] for way in ways}

    def run(way: str, asked: Sequence[Question]) -> None:
        name, batching, kind = chosen[way]
        with EnergyMeter() as used:
            found[way] = answer(modules[name, kind], checkpoint.tokenizer, asked, batching, progress=False)
        joules[way].append(used.joules)

    for way in ways:
        run(way, questions.questions[: min(WARMUP, -(-len(questions) // 4))])
    timings = interleave(
        {way: lambda way=way: run(way, questions.questions) for way in ways}, repeats, warmup=0, progress=progress
    )
    texts = found[next(iter(ways))].texts
    rows = []
    for way, (name, batching, kind) in chosen.items():
        dense = alike.get((batching, kind))
        remarks = [f"{kind} is emulated on this device"] * runtimes.is_emulated(kind, name, device)
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
                "speedup": timings[dense].median / timings[way].median if dense else None,
                "joules": None if None in timed else statistics.median([each for each in timed if each is not None]),
                "same_answers": sum(texts[k] == text for k, text in found[way].texts.items()) / len(texts),
                "exact_match": score.exact_match,
                "f1": score.f1,
                "remark": "; ".join(remarks),
            }
        )
    return over_fastest_dense(pd.DataFrame(rows))
