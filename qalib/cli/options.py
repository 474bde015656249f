"""A command's options, made from the fields of its settings: names, types, defaults and help are in one place."""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from textwrap import dedent
from typing import Annotated, Any, get_type_hints

import typer

from qalib.utils.errors import InputError


def options_of(settings: type, names: Mapping[str, Sequence[str]]) -> Callable[[Callable], Callable]:
    """Give a command that takes `settings`, a dataclass, an option for each of its fields.

    Help is the docstring under the field. `names` has the options of fields whose option has another name.
    """
    types = get_type_hints(settings)
    pairs = [field.name for field in fields(settings) if types[field.name] == tuple[int, int]]

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            command(settings(**given | {name: parse_block(f"--{name}", given[name]) for name in pairs}))

        run.__signature__ = inspect.Signature(_parameters(settings, types, names))
        run.__name__ = command.__name__
        run.__doc__ = command.__doc__
        return run

    return decorate


def _parameters(
    settings: type, types: Mapping[str, Any], names: Mapping[str, Sequence[str]]
) -> Iterator[inspect.Parameter]:
    help = field_docstrings(settings)
    for field in fields(settings):
        kind, default = types[field.name], inspect.Parameter.empty if field.default is MISSING else field.default
        if isinstance(default, tuple):
            kind, default = str, "x".join(map(str, default))
        switch = [f"--{field.name.replace('_', '-')}"] if kind is bool else []  # without a --no-... beside it
        option = typer.Option(*names.get(field.name, switch), help=help[field.name])
        how = {"default": default, "annotation": Annotated[kind, option]}
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, **how)


def field_docstrings(settings: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, as one line."""
    body = ast.parse(dedent(inspect.getsource(settings))).body[0].body
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def parse_block(option: str, text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH as two numbers. Raises InputError for anything else."""
    height, x, width = text.partition("x")
    if not (height.isdecimal() and x and width.isdecimal()):
        raise InputError(f"{option} {text}: expected HEIGHTxWIDTH, as 32x32")
    return int(height), int(width)
