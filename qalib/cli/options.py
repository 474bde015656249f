"""A command's options, made from the fields of its settings: names, types, defaults and help are in one place."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer
from annotated_doc import Doc

from qalib.utils.errors import InputError


def options_of(settings: type, names: Mapping[str, Sequence[str]] = {}) -> Callable[[Callable], Callable[..., None]]:
    """Decorate a command that takes `settings`, a dataclass, to take an option for each of its fields.

    The help of a field is its `Doc` (PEP 727), unless it is annotated for typer. `names` has the options of fields
    whose option has another name. Required options come first, then those that the class doesn't inherit.
    """
    hints = get_type_hints(settings, include_extras=True)
    blocks = [name for name, hint in get_type_hints(settings).items() if hint == tuple[int, int]]
    order = sorted(fields(settings), key=lambda f: (f.default is not MISSING, f.name not in settings.__annotations__))

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            command(settings(**values | {name: parse_block(f"--{name}", values[name]) for name in blocks}))

        run.__signature__ = inspect.Signature([_parameter(f, hints[f.name], names.get(f.name, ())) for f in order])
        run.__name__ = command.__name__
        run.__doc__ = command.__doc__
        return run

    return decorate


def _parameter(field: Field, hint: Any, names: Sequence[str]) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    kind, *metadata = get_args(hint) or [hint]
    if help := next((part.documentation for part in metadata if isinstance(part, Doc)), None):
        if isinstance(default, tuple):
            kind, default = str, "x".join(map(str, default))
        switch = [f"--{field.name.replace('_', '-')}"] if kind is bool else []  # without a --no-... beside it
        hint = Annotated[kind, typer.Option(*(names or switch), help=help)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def parse_block(option: str, text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH as two numbers. Raises InputError for anything else."""
    height, x, width = text.partition("x")
    if not (height.isdecimal() and x and width.isdecimal()):
        raise InputError(f"{option} {text}: expected HEIGHTxWIDTH, as 32x32")
    return int(height), int(width)
