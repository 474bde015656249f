"""The command line: commands, their options, and how results and errors are printed."""

from qalib.cli.commands import app, main

__all__ = ["app", "main"]
