"""The whole evaluation timed, from texts to answers, in several ways side by side."""

from collections.abc import Sequence

import pandas as pd

from qalib import runtimes
from qalib.benchmark.timing import interleave
from qalib.model.checkpoint import Checkpoint
from qalib.qa.answering import Answers, answer
from qalib.qa.batching import LENGTH_SORTED, PADDED, BatchingConfig
from qalib.qa.squad import Question, QuestionSet
from qalib.utils import machine

WARMUP = 64  # questions, at most a quarter of all, that each way answers before it is timed
EVALUATIONS: dict[str, tuple[str, BatchingConfig]] = {
    "usual way": ("dense", PADDED),
    "dense, by length": ("dense", LENGTH_SORTED),
    "compact, by length": ("compact", LENGTH_SORTED),
    "block-sparse, by length": ("block-sparse", LENGTH_SORTED),
}


def evaluation_time(
    checkpoint: Checkpoint,
    questions: QuestionSet,
    device: str = "cpu",
    dtype: str = "auto",
    repeats: int = 3,
    progress: bool = True,
    ways: dict[str, tuple[str, BatchingConfig]] | None = None,
) -> pd.DataFrame:
    """Time the whole evaluation, texts in to answers out, in several ways (runtime and batching), in turn.

    Each way answers the first questions once untimed, to warm up. All are compared with the first way, by default
    (EVALUATIONS) the usual one: dense, padded to 384 tokens, batches of 32 in file order. `auto` is the fastest
    type of the device. One row per way: way, runtime, dtype, rounds, windows, padded_tokens, median_seconds,
    spread_seconds, round_seconds, speedup (first / this, medians), share (this / first), same_answers (share of the
    questions that get the first way's text) and remark (a type that is emulated, a single round).
    """
    if ways is None:
        ways = {way: how for way, how in EVALUATIONS.items() if how[0] in runtimes.available(device)}
    dtype = machine.dtype(dtype, device)
    modules = {name: runtimes.build(name, checkpoint, device, dtype) for name, _ in ways.values()}
    found: dict[str, Answers] = {}

    def run(way: str, asked: Sequence[Question]) -> None:
        name, batching = ways[way]
        found[way] = answer(modules[name], checkpoint.tokenizer, asked, batching, progress=False)

    for way in ways:
        run(way, questions.questions[: min(WARMUP, -(-len(questions) // 4))])
    timings = interleave(
        {way: lambda way=way: run(way, questions.questions) for way in ways}, repeats, warmup=0, progress=progress
    )
    first = next(iter(ways))
    base = timings[first].median
    texts = found[first].texts
    remarks = [f"{dtype} is emulated on this device"] * machine.is_emulated(dtype, device)
    remarks += ["a single round, so no spread"] * (repeats < 2)
    rows = [
        {
            "way": way,
            "runtime": name,
            "dtype": dtype,
            "rounds": repeats,
            "windows": found[way].windows,
            "padded_tokens": found[way].padded_tokens,
            "median_seconds": timings[way].median,
            "spread_seconds": timings[way].iqr,
            "round_seconds": timings[way].seconds,
            "speedup": base / timings[way].median,
            "share": timings[way].median / base,
            "same_answers": sum(texts[k] == text for k, text in found[way].texts.items()) / len(texts),
            "remark": "; ".join(remarks),
        }
        for way, (name, _) in ways.items()
    ]
    return pd.DataFrame(rows)
