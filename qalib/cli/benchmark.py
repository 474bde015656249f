"""The commands that measure speed: `qalib benchmark forward`, `evaluation`, `sweep`, `pace` and `training`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qalib.cli.console import RUNTIME_NAMES, Device, Json, Model, Questions, Sweep, print_json, writable
from qalib.cli.options import options_of
from qalib.utils.errors import InputError, without_controls

if TYPE_CHECKING:
    import pandas as pd

    from qalib.model.checkpoint import Checkpoint
    from qalib.qa.squad import QuestionSet

app = typer.Typer(no_args_is_help=True)

Runtimes = Annotated[
    str,
    typer.Option(
        help=f"Names separated by commas, or 'all' for the device; dense is always included. Names: {RUNTIME_NAMES}."
    ),
]
Dtypes = Annotated[
    str, typer.Option("--dtype", help="fp32, bf16, or both separated by commas; auto: all that have instructions.")
]
Batch = Annotated[int, typer.Option(help="Windows per batch.")]
Length = Annotated[int, typer.Option(help="Tokens per window.")]
Repeats = Annotated[int, typer.Option(help="Timed rounds, after one of warm-up; at least 50 on a GPU.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for the results (JSON) and, if there is one, the figure.", callback=writable),
]
Score = Annotated[
    str | None,
    typer.Option(
        help="Score each runtime's answers to these questions; if the weights are random, the bundled model's answers."
    ),
]

RUNTIMES = "dense,compact,block-sparse"
SHOWN = [
    "runtime", "dtype", "rounds", "median_ms", "spread_ms", "p99_ms", "speedup_over_best", "speedup", "bound_reached",
    "f1", "note", "remark",
]  # fmt: skip
EVALUATED = [
    "way", "rounds", "median_seconds", "spread_seconds", "speedup_over_best", "speedup", "exact_match", "f1",
    "same_answers", "resident_megabytes", "joules", "remark",
]  # fmt: skip
EXAMPLES = {Sweep.density: "0.1,0.2", Sweep.length: "64,128,384", Sweep.threads: "1,2"}


@dataclass(frozen=True, kw_only=True)
class ForwardSettings:
    """Options of `forward`."""

    model: Model = "bundled"
    runtimes: Runtimes = RUNTIMES
    dtype: Dtypes = "auto"
    batch: Batch = 8
    length: Length = 384
    repeats: Repeats = 7
    device: Device = Device.auto
    score: Score = None
    questions: Questions = None
    out: Out = None
    as_json: Json = False


@dataclass(frozen=True, kw_only=True)
class SweepSettings(ForwardSettings):
    """Options of `sweep`."""

    over: Annotated[Sweep, typer.Argument(help="What varies.")]
    values: Annotated[str | None, typer.Option(help="Values separated by commas, as 0.1,0.2 or 64,128,384.")] = None
    length: Annotated[int, typer.Option(help="Tokens per window, unless the length varies.")] = 384


@app.command()
@options_of(ForwardSettings)
def forward(settings: ForwardSettings) -> None:
    """Time forward passes of the runtimes side by side, interleaved in one run."""
    from qalib.benchmark import latency
    from qalib.model import checkpoint
    from qalib.report.plots import speed

    loaded = checkpoint.load(settings.model)
    scoring = _scoring(settings, loaded)
    choice = _choice(settings.runtimes, settings.dtype, settings.device)
    rows = latency.compare(loaded, **choice, batch=settings.batch, length=settings.length, repeats=settings.repeats)
    figures = {"speedup": speed.speedup, "fastest_of_each": speed.fastest_of_each}
    _finish(settings, loaded, rows, figures, scoring)


@app.command()
@options_of(SweepSettings)
def sweep(settings: SweepSettings) -> None:
    """Time forward passes at several densities, lengths or numbers of threads."""
    from qalib.benchmark.sweep import SWEEPS
    from qalib.model import checkpoint
    from qalib.report.plots import speed

    over = settings.over
    numbers = _numbers(settings.values, over)
    loaded = checkpoint.load(settings.model)
    scoring = _scoring(settings, loaded)
    choice = _choice(settings.runtimes, settings.dtype, settings.device)
    choice |= {} if over is Sweep.length else {"length": settings.length}
    rows = SWEEPS[over.value](loaded, *numbers, **choice, batch=settings.batch, repeats=settings.repeats)
    figures = {over.value: lambda rows: speed.sweep(rows, over.value)}
    _finish(settings, loaded, rows, figures, scoring)


@app.command()
def pace(
    model: Model = "bundled",
    batch: Batch = 8,
    length: Length = 384,
    repeats: Repeats = 7,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time the kernel on each kind of matrix, beside the processor's peak."""
    from qalib.benchmark import by_matrix
    from qalib.model import checkpoint

    loaded = checkpoint.load(model)
    _record(loaded.name, by_matrix(loaded, batch, length, repeats), "pace", out, as_json)


@app.command()
def training(
    models: Annotated[list[str], typer.Argument(help="Pruned models; the first is trained dense, too.")],
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    batch: Batch = 16,
    length: Length = 256,
    rounds: Annotated[int, typer.Option(help="Rounds in which all methods take turns.", min=1)] = 2,
    steps: Annotated[int, typer.Option(help="Timed steps in each round.", min=1)] = 2,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time training steps on the CPU: dense, under a fixed mask, and by movement pruning."""
    from qalib.benchmark.training import compare

    _record(models, compare(models, dtype, batch, length, rounds, steps), "training", out, as_json)


@app.command()
def evaluation(
    data: Annotated[str, typer.Option(help="'sample', 'squad' or 'squad_v2' (the hub's), or a SQuAD JSON file.")],
    model: Model = "bundled",
    runtimes: Runtimes = RUNTIMES,
    dtype: Dtypes = "auto",
    repeats: Repeats = 7,
    device: Device = Device.auto,
    questions: Questions = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Time whole evaluations, from texts to answers, and score the answers."""
    import pandas as pd

    from qalib.benchmark import end_to_end, memory, summary
    from qalib.model import checkpoint
    from qalib.qa import squad
    from qalib.runtimes import REGISTRY, unavailable_reason
    from qalib.utils import files, machine

    loaded, question_set = checkpoint.load(model), squad.load(data).first(questions)
    choice = _choice(runtimes, dtype, device)
    place = choice["device"]
    ways = end_to_end.ways_of(choice["names"], choice["dtypes"] or machine.hardware_dtypes(place))
    reasons = {name: unavailable_reason(way.runtime, place, way.dtype) for name, way in ways.items()}
    not_run = {name: reason for name, reason in reasons.items() if reason}
    ways = {name: way for name, way in ways.items() if name not in not_run}
    rows = end_to_end.evaluation_time(loaded, question_set, place, repeats=repeats, ways=ways)
    rows = rows.assign(resident_bytes=None)
    if place == "cpu":  # in processes of their own; other libraries' runtimes are built from more than they keep
        ours = rows[[not REGISTRY[name].peer for name in rows.runtime]].groupby("dtype").runtime.unique()
        resident = [memory.compare(str(loaded.folder), list(names), str(dtype)) for dtype, names in ours.items()]
        resident = pd.concat(resident).drop(columns="share")
        rows = rows.drop(columns="resident_bytes").merge(resident, "left", on=["runtime", "dtype"])
    headline = asdict(summary.evaluation_headline(rows, question_set.description))
    record = summary.recorded(rows) | {"data": question_set.description, "not_run": not_run, "headline": headline}
    if out is not None:
        files.write_json(out / "evaluation.json", {"model": loaded.name} | record)
    if as_json:
        print_json(record)
        return
    _print_lines(record["machine"] | {"data": question_set.description} | not_run)
    print("usual way: dense in fp32, padded to 384 tokens, batches of 32 in file order")
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


def _choice(runtimes: str, dtype: str, device: Device) -> dict[str, Any]:
    """The arguments `names`, `dtypes` and `device` of a comparison."""
    from qalib.runtimes import REGISTRY
    from qalib.utils import machine

    place = machine.device(device.value)
    for_device = [name for name, runtime in REGISTRY.items() if place in runtime.devices]
    names = for_device if runtimes == "all" else runtimes.split(",")
    return {"names": names, "dtypes": None if dtype == "auto" else dtype.split(","), "device": place}


def _scoring(settings: ForwardSettings, loaded: "Checkpoint") -> tuple["Checkpoint", "QuestionSet"] | None:
    """The model and the questions to score each runtime with, if any, checked before anything is timed."""
    from qalib.model import checkpoint
    from qalib.qa import squad

    if settings.score is None:
        if settings.questions is not None:
            raise InputError(f"--questions {settings.questions}: requires --score")
        return None
    scored = checkpoint.load("bundled") if loaded.unscored else loaded
    return scored, squad.load(settings.score).first(settings.questions)


def _finish(
    settings: ForwardSettings,
    loaded: "Checkpoint",
    rows: "pd.DataFrame",
    figures: dict[str, Callable[["pd.DataFrame"], Any]],
    scoring: tuple["Checkpoint", "QuestionSet"] | None,
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
    if settings.out is not None:
        with results.added_to(settings.out, "qalib benchmark") as kept:
            files.write_json(kept.out / "benchmark.json", {"model": loaded.name} | record)
            for name, draw in figures.items():
                kept.figure(name, draw(rows))
    if settings.as_json:
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


def _record(model: str | list[str], rows: "pd.DataFrame", name: str, out: Path | None, as_json: bool) -> None:
    """Write and print rows that need no summary."""
    from qalib.benchmark import summary
    from qalib.utils import files

    record = summary.recorded(rows)
    if out is not None:
        files.write_json(out / f"{name}.json", {"model": model} | record)
    if as_json:
        print_json(record)
    else:
        _print_lines(record["machine"])
        _print_table(rows.drop(columns="round_seconds"))


def _print_lines(values: dict[str, Any]) -> None:
    print("\n".join(without_controls(f"{key}: {value}") for key, value in values.items()))


def _print_table(rows: "pd.DataFrame") -> None:
    plain = rows.map(lambda cell: without_controls(cell) if isinstance(cell, str) else cell)
    print(plain.to_string(index=False, na_rep="-"))


def _numbers(text: str | None, over: Sweep) -> list[list[float]]:
    """The values of a sweep as the argument after the model, or no argument, for the sweep's own."""
    if text is None:
        return []
    kind = float if over is Sweep.density else int
    try:
        return [[kind(part) for part in text.split(",")]]
    except ValueError:
        raise InputError(f"--values {text}: expected numbers separated by commas, as {EXAMPLES[over]}") from None


def current_spelling(arguments: list[str]) -> list[str]:
    """Arguments of `qalib benchmark` from before it had subcommands, with the subcommand they stand for.

    >>> current_spelling(["--sweep", "density", "--values", "0.1"])
    ['sweep', 'density', '--values', '0.1']
    >>> current_spelling(["--pace", "--json"]), current_spelling(["--data", "dev.json"])
    (['pace', '--json'], ['evaluation', '--data', 'dev.json'])
    >>> current_spelling(["--batch", "16"]), current_spelling(["forward"]), current_spelling(["--help"])
    (['forward', '--batch', '16'], ['forward'], ['--help'])
    """
    if not arguments or arguments[0] == "--help" or not arguments[0].startswith("-"):
        return arguments
    words = [part for argument in arguments for part in (argument.split("=", 1) if "--" in argument else [argument])]
    if "--sweep" in words[:-1]:
        place = words.index("--sweep")
        return ["sweep", words[place + 1], *words[:place], *words[place + 2 :]]
    if "--pace" in words:
        return ["pace", *(word for word in words if word != "--pace")]
    return ["evaluation" if "--data" in words else "forward", *words]
