"""The command line: one function per command, with no more than options and printing.

Exit codes: 0 done, 1 a notebook failed, 2 input that cannot be used or output that cannot be written, 130 and 143
interrupted by Ctrl-C and by SIGTERM. Results go to standard output, progress to standard error.
"""

import sys
import traceback
from typing import Annotated

import typer

import qalib
from qalib.cli import benchmark, interrupts
from qalib.cli.console import describe_error
from qalib.cli.earlier_spelling import current_spelling
from qalib.cli.environment import env
from qalib.cli.models import average, export, finetune, prune, sparsity, twin
from qalib.cli.questions import answer, evaluate, score
from qalib.cli.reports import audit, push, report
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


COMMANDS = (report, answer, evaluate, score, sparsity, export, push, finetune, prune, average, twin, audit, env)
for command in COMMANDS:
    app.command()(command)
app.add_typer(benchmark.app, name="benchmark", help="Measure speed: forward passes, whole evaluations, training steps.")


def _respell(words: list[str]) -> None:
    """Give `qalib benchmark`, as it was spelled before 0.2, its subcommand, in place, with a note."""
    if "benchmark" in words[1:3]:
        place = words.index("benchmark") + 1
        if (new := current_spelling(words[place:])) != words[place:]:
            print(f"qalib: this spelling goes away in 0.3; it is now qalib benchmark {' '.join(new)}", file=sys.stderr)
            words[place:] = new


def main() -> None:
    """The entry point: an error is printed as one line; with `qalib --debug`, below its traceback."""
    with interrupts.raised():
        _run()


def _run() -> None:
    escape_unencodable()
    _respell(sys.argv)
    try:
        app()
    except BaseException as error:
        if isinstance(error, SystemExit) and not isinstance(error, interrupts.Interrupted):
            raise
        if "--debug" in sys.argv[1:2]:
            traceback.print_exc()
        if code := interrupts.exit_code():
            message = interrupts.notice(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
        else:
            message, code = describe_error(error)
        print(f"qalib: {printable(message)}", file=sys.stderr)
        interrupts.end(code)
