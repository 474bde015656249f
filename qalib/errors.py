"""The two errors that end a command in one line."""


class InputError(ValueError):
    """A file, name or value that cannot be used; the message is one line that names it. Exit code 2."""


class ReportError(RuntimeError):
    """A notebook failed; the message names notebook, cell and error, and where the partial notebook is. Exit code 1."""
