"""Results of `qalib benchmark`, written to files and printed for people."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qalib.cli.console import Sweep, print_json
from qalib.utils.errors import without_controls

if TYPE_CHECKING:
    import pandas as pd

    from qalib.model.checkpoint import Checkpoint
    from qalib.qa.squad import QuestionSet

SHOWN = [
    "runtime", "dtype", "rounds", "median_ms", "spread_ms", "p99_ms", "speedup_over_best", "speedup", "bound_reached",
    "f1", "note", "remark",
]  # fmt: skip
EVALUATED = [
    "way", "rounds", "median_seconds", "spread_seconds", "speedup_over_best", "speedup", "exact_match", "f1",
    "same_answers", "resident_megabytes", "joules", "remark",
]  # fmt: skip


def finish_forward(
    loaded: "Checkpoint",
    rows: "pd.DataFrame",
    figures: dict[str, Callable[["pd.DataFrame"], Any]],
    scoring: tuple["Checkpoint", "QuestionSet"] | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score the answers if wanted, then write and print a comparison of forward passes."""
    from qalib.benchmark import summary
    from qalib.benchmark.accuracy import with_scores
    from qalib.report import results
    from qalib.utils import files, machine

    about = {}
    if scoring:
        scored, question_set = scoring
        rows = with_scores(rows, scored, question_set)
        about = {"scored": {"model": scored.name, "data": question_set.description}}
    record = summary.report(rows) | about
    if out is not None:
        with results.added_to(out, "qalib benchmark") as kept:
            files.write_json(kept.out / "benchmark.json", {"model": loaded.name} | record)
            for name, draw in figures.items():
                kept.figure(name, draw(rows))
    if as_json:
        print_json(record)
        return
    _print_lines(machine.specs())
    few = "" if rows.p99_seconds.notna().any() else ", of 100 rounds or more"
    print(
        f"median_ms, spread_ms (first to third quartile) and p99_ms (the 99th percentile{few}): milliseconds a batch "
        f"over the rounds\nspeedup_over_best is over {', '.join(rows.best_baseline.unique())}; speedup over dense of "
        "the same type"
    )
    if about:
        scored = f"{about['scored']['model']} in that runtime and type, on {about['scored']['data']}"
        print(without_controls(f"f1 (%): {scored}"))
    times = {f"{each}_ms": 1000 * rows[f"{each}_seconds"].astype(float) for each in ("median", "spread", "p99")}
    shown = [
        column
        for column in [*(name for name in figures if name in Sweep.__members__), *SHOWN]
        if about or column != "f1"
    ]
    _print_table(rows.assign(**times).round(3)[shown])


def record(model: str | list[str], rows: "pd.DataFrame", name: str, out: Path | None, as_json: bool) -> None:
    """Write and print rows that need no summary."""
    from qalib.benchmark import summary
    from qalib.utils import files

    values = summary.recorded(rows)
    if out is not None:
        files.write_json(out / f"{name}.json", {"model": model} | values)
    if as_json:
        print_json(values)
    else:
        _print_lines(values["machine"])
        _print_table(rows.drop(columns="round_seconds"))


def print_evaluation(rows: "pd.DataFrame", record: dict[str, Any]) -> None:
    """Print a comparison of whole evaluations: its machine, its two steps, its table."""
    _print_lines(record["machine"] | {"data": record["data"]} | record["not_run"])
    print("usual way: dense in fp32, padded to 384 tokens, batches of 32 in file order")
    headline = record["headline"]
    dense, best = headline["evaluation_baseline"], headline["evaluation_way"]
    print(f"speedup_over_best is over {dense}; speedup over dense of the same type and batches")
    factors = {"batching_speedup": f"usual way / {dense}", "evaluation_speedup": f"{dense} / {best}",
               "usual_speedup": "their product"}  # fmt: skip
    print(", ".join(f"{what}: {headline[name]:.2f}x" for name, what in factors.items() if headline[name]))
    unreadable = ", which cannot be read here" * bool(rows.joules.isna().all())
    print(f"joules are the processor's by its own counters{unreadable}")
    shown = rows.assign(resident_megabytes=rows.resident_bytes.astype(float) / 1e6)[EVALUATED]
    shown = shown.astype(dict.fromkeys(("speedup", "joules", "exact_match", "f1"), float))  # where there are none, NaN
    _print_table(shown.round(3))


def _print_lines(values: dict[str, Any]) -> None:
    print("\n".join(without_controls(f"{key}: {value}") for key, value in values.items()))


def _print_table(rows: "pd.DataFrame") -> None:
    plain = rows.map(lambda cell: without_controls(cell) if isinstance(cell, str) else cell)
    print(plain.to_string(index=False, na_rep="-"))
