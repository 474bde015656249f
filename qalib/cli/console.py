"""The console: options that several commands take, and how results and errors are printed."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qalib.utils.errors import (
    NO_HOME,
    InputError,
    ReportError,
    is_homeless,
    is_out_of_memory,
    one_line,
    without_controls,
)
from qalib.utils.folders import require_writable
from qalib.utils.output import is_unicode


class Device(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Format(StrEnum):
    """A checkpoint format that `export` writes."""

    transformers = "transformers"
    packed = "packed"
    onnx = "onnx"


def writable(path: Path | None) -> Path | None:
    """Return an output's path. Raises InputError, before any work is done, if it cannot be written to."""
    if path is not None:
        require_writable(path)
    return path


Model = Annotated[str, typer.Option(help="'bundled', a folder, or a hub id with an optional @revision.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="As in other commands; give several for a report each and a comparison.",
        show_default="bundled",
    ),
]
Data = Annotated[
    str, typer.Option(help="'sample', 'squad' or 'squad_v2' (the hub's), or a SQuAD file, JSON or JSON Lines.")
]
Questions = Annotated[int | None, typer.Option(min=1, help="Use only the first N questions.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Dtype = Annotated[str, typer.Option(help="fp32, bf16, or auto: the faster of them by a short timing.")]


RUNTIME_NAMES = (  # written out, as the registry loads torch
    "dense, dense-compiled, compact, block-sparse, block-sparse-int8; compact-graph and pytorch-block-sparse on a GPU; "
    "openvino, openvino-int8, openvino-int8-sparse, onnxruntime-int8, torchao-int8, neural-engine-int8, "
    "neural-engine-int8-sparse, deepsparse, deepsparse-int8 where installed"
)


class Sweep(StrEnum):
    """What `benchmark` varies."""

    density = "density"
    length = "length"
    threads = "threads"


def parse_parameter(text: str) -> tuple[str, Any]:
    """NAME=VALUE as a name and a value, read as JSON where it is JSON. Raises InputError for anything else."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"-p {text}: expected NAME=VALUE")
    try:
        return name, json.loads(value, parse_constant=_no_number)
    except json.JSONDecodeError:
        return name, value
    except ValueError as error:
        raise InputError(f"-p {text}: {error}") from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a finite number")


def print_json(value: Any) -> None:
    """Print one JSON object, in ASCII where standard output lacks some characters: their escapes must be JSON's."""
    text = json.dumps(value, indent=1, ensure_ascii=not is_unicode())
    print(re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text))  # controls that JSON lets stand


def print_groups(groups: Mapping[str, Mapping[str, object]]) -> None:
    """Print groups of lines under their titles, names on the left; a group titled "" is not indented."""
    width = max(len(name) for lines in groups.values() for name in lines)
    for title, lines in groups.items():
        if title:
            print(without_controls(title))
        for name, value in lines.items():
            print(f"{'  ' * bool(title)}{name:{width}}  {without_controls(str(value))}")


def describe_error(error: BaseException) -> tuple[str, int]:
    """What an error says to the user, and the exit code."""
    match error:
        case InputError():
            return str(error), 2
        case ReportError():
            return str(error), 1
        case OSError() if error.strerror:  # a disk that is full, a folder that cannot be written
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2
        case _ if is_homeless(error):
            return NO_HOME, 2
        case _ if is_out_of_memory(error):
            return f"out of memory: {one_line(error)}", 2
    return f"{one_line(error)} (unexpected: `qalib --debug ...` shows where)", 1
