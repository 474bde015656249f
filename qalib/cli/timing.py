"""The command that times the runtimes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qalib.cli.console import Device, Json, Model, Questions, Sweep, print_json
from qalib.utils.errors import InputError

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
    "same_answers",
    "resident_megabytes", "joules", "remark",
]  # fmt: skip
EXAMPLES = {Sweep.density: "0.1,0.2", Sweep.length: "64,128,384", Sweep.threads: "1,2"}


def benchmark(
    model: Model = "bundled",
    runtimes: Annotated[
        str, typer.Option(help="Names, separated by commas, or 'all' for the device; dense is always included.")
    ] = "dense,compact,block-sparse",
    dtype: Annotated[
        str, typer.Option(help="fp32, bf16, or both separated by commas; auto: all that have instructions.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Windows per batch.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens per window.")] = 384,
    repeats: Annotated[int, typer.Option(help="Timed rounds, after one of warm-up; at least 50 on a GPU.")] = 7,
    device: Device = Device.auto,
    sweep: Annotated[
        Sweep | None, typer.Option(help="Time at several densities, lengths or numbers of threads.")
    ] = None,
    values: Annotated[
        str | None, typer.Option(help="Those of the sweep, separated by commas, as 0.1,0.2 or 64,128,384.")
    ] = None,
    pace: Annotated[
        bool, typer.Option(help="Instead, time the kernel on each kind of matrix, beside the processor's peak.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Instead, time whole evaluations of these questions, and score the answers.")
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="Beside the times, score each runtime's answers to these questions; where the weights are random, "
            "the bundled model's."
        ),
    ] = None,
    questions: Questions = None,
    out: Annotated[
        Path | None, typer.Option(help="Write benchmark.json and a figure there, pace.json or evaluation.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time the runtimes side by side, interleaved in one run."""
    from qalib.benchmark import latency, summary
    from qalib.benchmark.accuracy import with_scores
    from qalib.benchmark.sweep import SWEEPS
    from qalib.model import checkpoint
    from qalib.qa import squad
    from qalib.report import plots, results
    from qalib.runtimes import REGISTRY
    from qalib.utils import files, machine

    chosen = _numbers(values, sweep)
    asked_for = [f"--{name}" for name, given in (("data", data), ("sweep", sweep), ("pace", pace)) if given]
    if len(asked_for) > 1:
        raise InputError(f"{' and '.join(asked_for)}: choose one")
    if score is not None and (data is not None or pace):
        raise InputError(f"--score {score}: {'--data scores already' if data else '--pace times no answers'}")
    if questions is not None and data is None and score is None:
        raise InputError(f"--questions {questions}: of which --data or --score?")
    loaded = checkpoint.load(model)
    asked = None if data is None and score is None else squad.load(data or score).first(questions)
    if pace:
        _pace(loaded, batch, length, repeats, out, as_json)
        return
    place = machine.device(device.value)
    for_device = [name for name, kind in REGISTRY.items() if place in kind.devices]
    names = for_device if runtimes == "all" else runtimes.split(",")
    dtypes = None if dtype == "auto" else dtype.split(",")
    if data is not None:
        _evaluations(loaded, asked, names, dtypes, place, repeats, out, as_json)
        return
    how = {
        "names": names,
        "dtypes": dtypes,
        "batch": batch,
        "device": place,
        "repeats": repeats,
    }
    how |= {} if sweep is Sweep.length else {"length": length}
    rows = SWEEPS[sweep.value](loaded, *chosen, **how) if sweep else latency.compare(loaded, **how)
    about = {}
    if asked is not None:
        scored = checkpoint.load("bundled") if loaded.unscored else loaded
        rows = with_scores(rows, scored, asked)
        about = {"scored": {"model": scored.name, "data": asked.description}}
    found = summary.report(rows) | about
    if out is not None:
        name, figure = (
            (sweep.value, plots.speed.sweep(rows, sweep.value)) if sweep else ("speedup", plots.speed.speedup(rows))
        )
        files.write_json(out / "benchmark.json", {"model": loaded.name} | found)
        results.Results(out, "qalib benchmark").figure(name, figure)
    if as_json:
        print_json(found)
    else:
        print("\n".join(f"{key}: {value}" for key, value in machine.specs().items()))
        print(_explained(rows))
        if asked is not None:
            print(f"f1 (%) is of {scored.name} in that runtime and type, on {asked.description}")
        shown = [name for name in ([sweep.value] if sweep else []) + SHOWN if asked is not None or name != "f1"]
        print(_in_milliseconds(rows)[shown].to_string(index=False))


def _numbers(text: str | None, sweep: Sweep | None) -> list[list[float]]:
    """The values of a sweep as the argument after the model, or no argument, for the sweep's own."""
    if text is None:
        return []
    if sweep is None:
        raise InputError(f"--values {text}: of which --sweep?")
    kind = float if sweep is Sweep.density else int
    try:
        return [[kind(part) for part in text.split(",")]]
    except ValueError:
        raise InputError(f"--values {text}: expected numbers separated by commas, as {EXAMPLES[sweep]}") from None


def _in_milliseconds(rows: "pd.DataFrame") -> "pd.DataFrame":
    times = ("median", "spread", "p99")
    return rows.assign(**{f"{name}_ms": 1000 * rows[f"{name}_seconds"].astype(float) for name in times}).round(3)


def _explained(rows: "pd.DataFrame") -> str:
    """What the columns of the table are."""
    few = "" if rows.p99_seconds.notna().any() else ", of 100 rounds or more"
    return (
        f"median_ms, spread_ms (first to third quartile) and p99_ms (the 99th percentile{few}): milliseconds a batch "
        f"over the rounds\nspeedup_over_best is over {', '.join(rows.best_baseline.unique())}; speedup over dense of "
        "the same type"
    )


def _pace(loaded: "Checkpoint", batch: int, length: int, repeats: int, out: Path | None, as_json: bool) -> None:
    from qalib.benchmark import by_matrix, summary
    from qalib.utils import files

    rows = by_matrix(loaded, batch, length, repeats)
    found = summary.recorded(rows)
    if out is not None:
        files.write_json(out / "pace.json", {"model": loaded.name} | found)
    if as_json:
        print_json(found)
    else:
        print("\n".join(f"{key}: {value}" for key, value in found["machine"].items()))
        print(rows.drop(columns="round_seconds").to_string(index=False))


def _evaluations(
    loaded: "Checkpoint",
    asked: "QuestionSet",
    names: list[str],
    dtypes: list[str] | None,
    device: str,
    repeats: int,
    out: Path | None,
    as_json: bool,
) -> None:
    import pandas as pd

    from qalib.benchmark import end_to_end, memory, summary
    from qalib.runtimes import REGISTRY, unavailable_reason
    from qalib.utils import files, machine

    dtypes = dtypes or machine.hardware_dtypes(device)
    ways = end_to_end.ways_of(names, dtypes)
    reasons = {way: unavailable_reason(how.runtime, device, how.dtype) for way, how in ways.items()}
    not_run = {way: reason for way, reason in reasons.items() if reason}
    ways = {way: how for way, how in ways.items() if way not in not_run}
    rows = end_to_end.evaluation_time(loaded, asked, device, repeats=repeats, ways=ways).assign(resident_bytes=None)
    if device == "cpu":  # in processes of their own; other libraries' runtimes are built from more than they keep
        ours = rows[[not REGISTRY[name].peer for name in rows.runtime]].groupby("dtype").runtime.unique()
        held = [memory.compare(str(loaded.folder), list(names), dtype) for dtype, names in ours.items()]
        held = pd.concat(held).drop(columns="share")
        rows = rows.drop(columns="resident_bytes").merge(held, "left", on=["runtime", "dtype"])
    headline = asdict(summary.evaluation_headline(rows, asked.description))
    found = summary.recorded(rows) | {"data": asked.description, "not_run": not_run, "headline": headline}
    if out is not None:
        files.write_json(out / "evaluation.json", {"model": loaded.name} | found)
    if as_json:
        print_json(found)
        return
    lines = found["machine"] | {"data": asked.description} | not_run
    print("\n".join(f"{key}: {value}" for key, value in lines.items()))
    print("usual way: dense in fp32, padded to 384 tokens, batches of 32 in file order")
    dense, ours = headline["evaluation_baseline"], headline["evaluation_way"]
    print(f"speedup_over_best is over {dense}; speedup over dense of the same type and batches")
    steps = {"batching_speedup": f"usual way / {dense}", "evaluation_speedup": f"{dense} / {ours}",
             "usual_speedup": "their product"}  # fmt: skip
    print(", ".join(f"{what}: {headline[name]:.2f}x" for name, what in steps.items() if headline[name]))
    unreadable = ", which cannot be read here" * bool(rows.joules.isna().all())
    print(f"joules are the processor's by its own counters{unreadable}")
    shown = rows.assign(resident_megabytes=rows.resident_bytes.astype(float) / 1e6)[EVALUATED]
    shown = shown.astype(dict.fromkeys(("speedup", "joules", "exact_match", "f1"), float))  # where there are none, NaN
    print(shown.round(3).to_string(index=False, na_rep="-"))
