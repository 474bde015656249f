"""The command line: one function a command, each no more than options and printing.

Exit codes: 0 done, 1 a notebook failed, 2 input that cannot be used or output that cannot be written. Results go to
standard output, progress to standard error.
"""

import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qalib.cli.console import (
    Data,
    Device,
    Dtype,
    Format,
    Json,
    Model,
    Models,
    Questions,
    Sweep,
    explained,
    print_json,
    setting,
    show,
)
from qalib.cli.options import options_of
from qalib.pruning.config import PruningConfig
from qalib.utils.errors import InputError, printable

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback too.")] = False,
) -> None:
    """Understand, measure and run block-sparse question-answering models."""


@app.command()
def report(
    model: Models = None,
    data: Data = "sample",
    out: Annotated[Path | None, typer.Option(help="The report's folder [default: reports/MODEL-DATA].")] = None,
    device: Device = Device.auto,
    questions: Questions = None,
    fresh: Annotated[bool, typer.Option(help="Run every notebook, also those done for the same inputs.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Time less: fewer rounds, questions and steps.")] = False,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="NAME=VALUE for the notebooks that have it.")
    ] = None,
) -> None:
    """Run the notebooks and write the report: model card, tables, figures, pages."""
    from qalib.report import build, comparison

    models = model or ["bundled"]
    parameters = dict(setting(text) for text in parameter or [])
    how = {"device": device.value, "questions": questions, "fresh": fresh, "parameters": parameters, "quick": quick}
    several = len(models) > 1
    print(comparison.run(models, data, out, **how) if several else build.run(models[0], data, out, **how))


@app.command()
def answer(
    question: str,
    context: str,
    model: Model = "bundled",
    top_k: Annotated[int, typer.Option(help="How many answers to give.")] = 1,
    as_json: Json = False,
) -> None:
    """Answer a question from a text."""
    from qalib import pipeline

    ask = pipeline("question-answering", model=model)
    try:
        answers = ask(question=question, context=context, top_k=top_k)
    except ValueError as error:
        raise InputError(str(error)) from None
    answers = answers if isinstance(answers, list) else [answers]
    if as_json:
        print_json({"answers": answers})
    else:
        for found in answers:
            print(f"{found['answer']}  (score {found['score']:.3f}, characters {found['start']} to {found['end']})")


@app.command()
def evaluate(
    model: Model = "bundled",
    data: Data = "sample",
    runtime: Annotated[str | None, typer.Option(help="Its name [default: the fastest for the device].")] = None,
    dtype: Dtype = "auto",
    device: Device = Device.auto,
    questions: Questions = None,
    predictions: Annotated[Path | None, typer.Option(help="Write the answers there, {question id: text}.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many share the questions, each with its cores.")] = 1,
    as_json: Json = False,
) -> None:
    """Answer a question set and score the answers: exact match and F1."""
    from qalib.qa import evaluation
    from qalib.utils import distributed, files

    about, result = distributed.run(
        processes, evaluation.load_and_evaluate, model, data, runtime, dtype, device.value, questions
    )
    if distributed.leads():
        if predictions is not None:
            files.write_json(predictions, result.answers.texts)
        show(about | evaluation.summary(result), as_json)


@app.command()
def score(data: str, predictions: Path, as_json: Json = False) -> None:
    """Score a prediction file against a question set with the official SQuAD v1.1 metric."""
    from qalib.qa import metric, squad

    asked = squad.load(data)
    found = metric.read_predictions(predictions)
    try:
        result = metric.score(asked.questions, found)
    except InputError as error:
        raise InputError(f"{predictions}: {error}") from None
    show(asdict(result), as_json)


@app.command()
def sparsity(
    model: Model = "bundled",
    out: Annotated[Path | None, typer.Option(help="Write tables (CSV) and figures (SVG) there.")] = None,
    as_json: Json = False,
) -> None:
    """Count what is left of a model: blocks, heads, neurons, parameters, bytes, multiply-adds."""
    from qalib import sparsity
    from qalib.model import checkpoint
    from qalib.report import plots, results

    loaded = checkpoint.load(model)
    tables = sparsity.tables(loaded)
    summary = sparsity.summary(loaded, tables)
    if out is not None:
        kept = results.Results(out, "qalib sparsity")
        kept.measured(summary)
        for name, table in tables.items():
            kept.table(name, table)
        for name, figure in plots.sparsity.of_sparsity(tables, sparsity.fills(loaded)).items():
            kept.figure(name, figure)
    removed = tables["heads"].groupby("layer").called_removed.sum()
    show({"model": loaded.name, "format": loaded.format, "revision": loaded.revision}
          | asdict(summary)
          | {"heads_called_removed_per_layer": removed.tolist(), "settings_ignored": loaded.settings_ignored}
          | {"bytes": dict(tables["file_sizes"][["form", "bytes"]].to_numpy().tolist())}
          | {"multiply_adds": tables["multiply_adds"].set_index("part").to_dict("index")}, as_json)  # fmt: skip


@app.command()
def benchmark(
    model: Model = "bundled",
    runtimes: Annotated[
        str, typer.Option(help="Names, separated by commas, or 'all'; dense is always there.")
    ] = "dense,compact,block-sparse",
    dtype: Annotated[
        str, typer.Option(help="fp32, bf16, or both separated by commas; auto: what the device computes in hardware.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Windows a batch.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens a window.")] = 384,
    repeats: Annotated[int, typer.Option(help="Timed rounds after one of warm-up; on a GPU 50 at least.")] = 7,
    device: Device = Device.auto,
    sweep: Annotated[
        Sweep | None, typer.Option(help="Time at several densities, lengths or numbers of threads.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write benchmark.json and a figure there.")] = None,
    as_json: Json = False,
) -> None:
    """Time the runtimes side by side, interleaved in one run."""
    from qalib.benchmark import latency, summary
    from qalib.benchmark.sweep import SWEEPS
    from qalib.model import checkpoint
    from qalib.report import plots, results
    from qalib.runtimes import REGISTRY
    from qalib.utils import files, machine

    loaded = checkpoint.load(model)
    place = device.value
    names = list(REGISTRY) if runtimes == "all" else runtimes.split(",")
    how = {
        "names": names,
        "dtypes": None if dtype == "auto" else dtype.split(","),
        "batch": batch,
        "device": machine.device(place),
        "repeats": repeats,
    }
    how |= {} if sweep is Sweep.length else {"length": length}
    rows = SWEEPS[sweep.value](loaded, **how) if sweep else latency.compare(loaded, **how)
    if out is not None:
        name, figure = (
            (sweep.value, plots.speed.sweep(rows, sweep.value)) if sweep else ("speedup", plots.speed.speedup(rows))
        )
        files.write_json(out / "benchmark.json", {"model": loaded.name} | summary.report(rows))
        results.Results(out, "qalib benchmark").figure(name, figure)
    if as_json:
        print_json(summary.report(rows))
    else:
        print("\n".join(f"{key}: {value}" for key, value in machine.specs().items()))
        shown = [
            "runtime",
            "dtype",
            "median_seconds",
            "spread_seconds",
            "speedup_over_best",
            "speedup",
            "bound_reached",
            "note",
            "remark",
        ]
        print(
            f"speedup_over_best is over {', '.join(rows.best_baseline.unique())}; speedup over dense of the same type"
        )
        print(rows[([sweep.value] if sweep else []) + shown].to_string(index=False))


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The folder to write; it must not hold anything yet.")],
    model: Model = "bundled",
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.transformers,
    dtype: Annotated[str, typer.Option(help="Of the packed form: fp16, fp32 or int8.")] = "fp16",
    compact: Annotated[bool, typer.Option("--compact", help="ONNX: without idle heads and neurons.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="ONNX: weights in int8.")] = False,
) -> None:
    """Write a model for plain transformers (full size, zeros included), packed (kept blocks only), or as ONNX."""
    from qalib.model import checkpoint
    from qalib.runtimes import onnx_folder, onnx_graph

    if (compact or int8) and format is not Format.onnx:
        raise InputError("--compact and --int8 are for --format onnx")
    loaded = checkpoint.load(model)
    match format:
        case Format.onnx:
            graph, differs = onnx_folder.save(loaded, out, compact, int8)
            print(f"{graph}: opset {onnx_graph.OPSET}, logits differ from torch's by {differs:.2g} at most")
        case Format.packed:
            print(checkpoint.save_packed(loaded, out, dtype))
        case Format.transformers:
            print(checkpoint.save_transformers(loaded, out))
            if reason := checkpoint.not_for_transformers(loaded):
                print(f"for qalib only: {reason}", file=sys.stderr)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A report's folder, as `qalib report` writes it.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="NAME/MODEL on the hub; made if it is not there.")],
    model: Annotated[str | None, typer.Option(help="The model of the report [default: the one it names].")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the folder that is uploaded there.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write and check --out, upload nothing.")] = False,
) -> None:
    """Put a model with its card, figures and evaluation results on the model hub."""
    import tempfile

    from qalib.report import push

    push.check_name(repository)
    if dry_run and out is None:
        raise InputError("--dry-run: name the folder to write with --out")
    with tempfile.TemporaryDirectory() as work:
        made = push.assemble(folder, out or Path(work) / "upload", model)
        print(made if dry_run else push.upload(made, repository, private))


@app.command()
@options_of(
    PruningConfig,
    names={"eval_data": ("--eval",), "regularization_weight": ("--regularization-weight", "--regulariser")},
)
def prune(config: PruningConfig) -> None:
    """Prune a model by movement pruning in blocks while it learns from data and a teacher."""
    from qalib.pruning import run

    print(run.prune(config))


@app.command()
def twin(
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not hold anything yet.")],
    published: Annotated[str, typer.Option(help="The published model whose structure is taken.")] = "0.32",
    masks: Annotated[Path | None, typer.Option(help="A file that gives every kept block instead.")] = None,
    density: Annotated[float | None, typer.Option(help="Linear density instead of the published one, 0 to 1.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and places of blocks.")] = 0,
    format: Annotated[str, typer.Option(help="2021, packed or transformers.")] = "2021",
    vocabulary: Annotated[Path | None, typer.Option(help="Folder with tokenizer files to put beside them.")] = None,
) -> None:
    """Write a BERT-base with a published structure and random weights: for sizes and speeds, not for answers."""
    from qalib.model import synthetic

    print(synthetic.make(out, published, masks, density, seed, format, vocabulary))


@app.command()
def audit(
    card: Annotated[Path | None, typer.Option(help="A published card [default: the claims of the 0.32 card].")] = None,
    model: Annotated[str | None, typer.Option(help="Its checkpoint [default: a structural twin].")] = None,
    data: Data = "sample",
    train: Annotated[str | None, typer.Option(help="SQuAD v1.1's training file, for its windows.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table there, audit.csv.")] = None,
    device: Device = Device.auto,
    as_json: Json = False,
) -> None:
    """Hold a published card's claims against what can be computed."""
    from qalib.qa import squad
    from qalib.report import audit, results
    from qalib.utils import machine

    stated = audit.read(card)
    asked = squad.load(data)
    place = machine.device(device.value)
    training = squad.load(train, "train") if train else None
    with audit.subject(model) as loaded:
        table = audit.audit(stated, loaded, asked, training, place)
    if out is not None:
        results.Results(out, "qalib audit").table("audit", table)
    if as_json:
        print_json({"machine": machine.specs(), "claims": table.to_dict("records")})
    else:
        for row in table.itertuples():
            stated, ours = row.stated or "nothing", f"{row.ours} {row.unit}" if row.ours else "nothing"
            print(f"{row.verdict:20} {row.claim}: stated {stated}, here {ours}")
            print(f"{'':20} {row.explanation}")


def main() -> None:
    """The entry point: an error is one line, with its traceback before it after `qalib --debug`."""
    try:
        app()
    except KeyboardInterrupt:
        print("qalib: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if "--debug" in sys.argv[1:2]:
            traceback.print_exc()
        message, code = explained(error)
        print(f"qalib: {printable(message)}", file=sys.stderr)
        sys.exit(code)
