"""The two errors that end a command in one line, and others put into one."""


class InputError(ValueError):
    """A file, name or value that cannot be used; the message is one line that names it. Exit code 2."""


class ReportError(RuntimeError):
    """A notebook failed; the message names notebook, cell and error, and where the partial notebook is. Exit code 1."""


def one_line(error: BaseException, most: int = 300) -> str:
    """Kind and message of somebody else's error, without line breaks, cut off after `most` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"
