"""The command line: one function per command, with no more than options and printing.

Exit codes: 0 done, 1 a notebook failed, 2 input that cannot be used or output that cannot be written. Results go to
standard output, progress to standard error.
"""

import logging
import sys
import traceback
from typing import Annotated

import typer

import qalib
from qalib.cli.console import describe_error
from qalib.cli.environment import env
from qalib.cli.models import average, export, prune, sparsity, twin
from qalib.cli.questions import answer, evaluate, score
from qalib.cli.reports import audit, push, report
from qalib.cli.timing import benchmark
from qalib.utils.errors import printable
from qalib.utils.output import escape_unencodable

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version if it is wanted, and exit."""
    if wanted:
        print(f"qalib {qalib.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Understand, measure and run block-sparse question-answering models."""


for command in (report, answer, evaluate, score, sparsity, benchmark, export, push, prune, average, twin, audit, env):
    app.command()(command)


CHATTY = ("torchao", "torch.utils._pytree")  # warn of each other when they are imported, whoever uses them


def main() -> None:
    """The entry point: an error is printed as one line; with `qalib --debug`, below its traceback."""
    escape_unencodable()
    for library in CHATTY:
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        app()
    except KeyboardInterrupt:
        print("qalib: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if "--debug" in sys.argv[1:2]:
            traceback.print_exc()
        message, code = describe_error(error)
        print(f"qalib: {printable(message)}", file=sys.stderr)
        sys.exit(code)
