"""The commands that measure speed: `qalib benchmark forward`, `evaluation`, `sweep`, `pace` and `training`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qalib.cli.benchmark_results import finish_forward, print_evaluation, record
from qalib.cli.console import RUNTIME_NAMES, Device, Json, Model, Questions, Sweep, print_json, writable
from qalib.cli.options import options_of
from qalib.utils.errors import InputError

if TYPE_CHECKING:
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
    finish_forward(loaded, rows, figures, scoring, settings.out, settings.as_json)


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
    finish_forward(loaded, rows, figures, scoring, settings.out, settings.as_json)


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
    record(loaded.name, by_matrix(loaded, batch, length, repeats), "pace", out, as_json)


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

    record(models, compare(models, dtype, batch, length, rounds, steps), "training", out, as_json)


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
    values = summary.recorded(rows) | {"data": question_set.description, "not_run": not_run, "headline": headline}
    if out is not None:
        files.write_json(out / "evaluation.json", {"model": loaded.name} | values)
    if as_json:
        print_json(values)
    else:
        print_evaluation(rows, values)


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


def _numbers(text: str | None, over: Sweep) -> list[list[float]]:
    """The values of a sweep as the argument after the model, or no argument, for the sweep's own."""
    if text is None:
        return []
    kind = float if over is Sweep.density else int
    try:
        return [[kind(part) for part in text.split(",")]]
    except ValueError:
        raise InputError(f"--values {text}: expected numbers separated by commas, as {EXAMPLES[over]}") from None
