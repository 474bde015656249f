"""Commands that write and publish reports, and check published cards."""

from pathlib import Path
from typing import Annotated

import typer

from qalib.cli.console import Data, Device, Json, Models, Questions, parse_parameter, print_json, writable
from qalib.utils.errors import InputError, without_controls


def report(
    model: Models = None,
    data: Data = "sample",
    out: Annotated[Path | None, typer.Option(help="The report's folder.", show_default="reports/MODEL-DATA")] = None,
    device: Device = Device.auto,
    questions: Questions = None,
    fresh: Annotated[
        bool, typer.Option(help="Run every notebook again, even if it is done for the same inputs.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Time less: fewer rounds, questions and steps.")] = False,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="A parameter, NAME=VALUE, for the notebooks that have it.")
    ] = None,
) -> None:
    """Run the notebooks and write the report: model card, tables, figures, pages."""
    from qalib.report import build, comparison

    models = model or ["bundled"]
    parameters = dict(parse_parameter(text) for text in parameter or [])
    settings = {
        "device": device.value,
        "questions": questions,
        "fresh": fresh,
        "parameters": parameters,
        "quick": quick,
    }
    several = len(models) > 1
    print(comparison.run(models, data, out, **settings) if several else build.run(models[0], data, out, **settings))


def push(
    folder: Annotated[Path, typer.Argument(help="A report's folder, as `qalib report` writes it.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="NAME/MODEL on the hub; created if needed.")],
    model: Annotated[str | None, typer.Option(help="The model of the report.", show_default="the one it names")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the uploaded folder here.", callback=writable)] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write and check --out, upload nothing.")] = False,
) -> None:
    """Put a model with its card, figures and evaluation results on the model hub."""
    import tempfile

    from qalib.report import push

    push.check_name(repository)
    if dry_run and out is None:
        raise InputError("--dry-run: name the folder to write with --out")
    with tempfile.TemporaryDirectory() as work:
        upload = push.assemble(folder, out or Path(work) / "upload", model)
        print(upload if dry_run else push.upload(upload, repository, private))


def audit(
    card: Annotated[
        Path | None, typer.Option(help="A published card.", show_default="the claims of the 0.32 card")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Its checkpoint.", show_default="a structural twin")] = None,
    data: Data = "sample",
    train: Annotated[str | None, typer.Option(help="SQuAD v1.1's training file, for its windows.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table to this folder.", callback=writable)] = None,
    device: Device = Device.auto,
    as_json: Json = False,
) -> None:
    """Check a published card's claims against what can be computed."""
    from qalib.qa import squad
    from qalib.report import audit, claim, results
    from qalib.utils import machine
    from qalib.utils.frames import rows_of

    stated = audit.read(card)
    question_set = squad.load(data)
    place = machine.device(device.value)
    training = squad.load(train, "train") if train else None
    with audit.checkpoint_to_audit(model, stated=stated) as loaded:
        table = audit.audit(stated, loaded, question_set, training, place)
    if out is not None:
        results.Results(out, "qalib audit").table("audit", table)
    if as_json:
        print_json({"machine": machine.specs(), "claims": table.to_dict("records")})
    else:
        for row in rows_of(table):
            where = f" on {place.upper()}" if row.verdict == claim.NEEDS_GPU else ""
            ours = f"here {_with_unit(row.ours, row.unit)}{where}" if row.ours else "not computed"
            stated = f"stated {_with_unit(row.stated, row.unit)}" if row.stated else "not stated"
            print(without_controls(f"{row.verdict:20} {row.claim}: {stated}, {ours}"))
            print(without_controls(f"{'':20} {row.explanation}"))


def _with_unit(value: str, unit: str) -> str:
    return value if unit == "text" else f"{value}x" if unit == "x" else f"{value} {unit}"
