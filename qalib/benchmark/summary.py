"""What a table of latencies amounts to: figures for a card, the best of ours and of others, a file with all of it."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from qalib import runtimes
from qalib.benchmark.baseline import is_ours
from qalib.benchmark.end_to_end import USUAL
from qalib.utils import machine
from qalib.utils.quantity import measure


@dataclass(frozen=True)
class Headline:
    """What a card says about a table of `compare`: each runtime in its fastest type. None where it was not run."""

    timed: str = measure("text", "what the forward-pass speedups time")
    rounds: int = measure("count", "timed rounds, after one of warm-up")
    baseline: str = measure("text", "the fastest dense way of this run that is exact, of any type")
    bound: float = measure("x", "the multiply-add ratio, dense / sparse: the speedup if nothing else took time")
    compact_dtype: str | None = measure("text", "the type in which compact is fastest")
    compact_speedup: float | None = measure("x", "baseline / compact, median seconds of one forward pass")
    compact_speedup_same_type: float | None = measure("x", "dense of the same type / compact, median seconds")
    block_sparse_dtype: str | None = measure("text", "the type in which block-sparse is fastest")
    block_sparse_speedup: float | None = measure("x", "baseline / block-sparse, median seconds of one forward pass")
    block_sparse_speedup_same_type: float | None = measure("x", "dense of the same type / block-sparse, median seconds")
    kernel: str | None = measure("text", "what multiplied the blocks of block-sparse")
    speed_remark: str | None = measure("text", "caveat about block-sparse's speedup")


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
        speed_remark=sparse.get("remark") or None,
    )


@dataclass(frozen=True)
class EvaluationHeadline:
    """What a table of `evaluation_time` amounts to: two steps from the usual way, which multiply. None: not timed."""

    evaluation_timed: str = measure("text", "what the speedups of a whole evaluation time, texts in to answers out")
    evaluation_baseline: str = measure("text", "the fastest dense way of this run that is exact, of any type")
    evaluation_way: str | None = measure("text", "the fastest way of this run that skips zeros and is exact")
    batching_speedup: float | None = measure(
        "x",
        "usual way (dense fp32, windows padded to 384 tokens, batches of 32 in file order) / evaluation_baseline, "
        "median seconds: what dense gains by batches of similar length and its fastest type",
    )
    evaluation_speedup: float | None = measure(
        "x", "evaluation_baseline / evaluation_way, median seconds: what pruning and its runtime add"
    )
    usual_speedup: float | None = measure("x", "usual way / evaluation_way: batching_speedup times evaluation_speedup")
    same_answers: float | None = measure("%", "questions to which evaluation_way gives the text of the usual way")


def evaluation_headline(rows: pd.DataFrame, data: str) -> EvaluationHeadline:
    """The figures for a card from a table of `evaluation_time`; `data` says what was evaluated."""
    ours = rows[rows.runtime.map(is_ours)].sort_values("median_seconds").to_dict("records")[:1]
    usual = rows[rows.way == USUAL].to_dict("records")
    first, best = rows.iloc[0], ours[0] if ours else {}
    before = usual[0]["speedup_over_best"] if usual else None
    both = bool(usual and ours)
    return EvaluationHeadline(
        evaluation_timed=f"evaluating {data}; medians of {first.rounds} rounds",
        evaluation_baseline=first.best_baseline,
        evaluation_way=best.get("way"),
        batching_speedup=1 / before if before else None,
        evaluation_speedup=best.get("speedup_over_best"),
        usual_speedup=best["speedup_over_best"] / before if both else None,
        same_answers=100 * best["same_answers"] if both else None,
    )


def best(rows: pd.DataFrame) -> dict[str, Any]:
    """The fastest of ours and of other libraries' runtimes in one table of `compare`, whatever their types.

    Keys: ours, baseline (the fastest dense way), speedup (baseline / ours), peer (or None) and ratio (peer / ours,
    None without a peer); medians.
    """
    timed = rows[rows.median_seconds.notna()].sort_values("median_seconds")
    peers = timed.runtime.map(lambda name: runtimes.REGISTRY[str(name)].peer)
    ours = timed[~peers].iloc[0]
    others = timed[peers]
    return {
        "ours": f"{ours.runtime} {ours['dtype']}",
        "baseline": ours.best_baseline,
        "speedup": ours.speedup_over_best,
        "peer": None if others.empty else f"{others.iloc[0].runtime} {others.iloc[0]['dtype']}",
        "ratio": None if others.empty else others.iloc[0].median_seconds / ours.median_seconds,
    }


def report(rows: pd.DataFrame) -> dict:
    """`recorded`, with the fastest of ours and of others (`best`)."""
    return recorded(rows) | {"best": best(rows)}


def recorded(rows: pd.DataFrame) -> dict:
    """The rows with the machine they were measured on, as plain values: what was not measured is None."""
    plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return {"machine": machine.specs(), "versions": machine.versions(), "rows": plain}
