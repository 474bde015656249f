"""The two errors that end a command in one line, and others put into one."""


class InputError(ValueError):
    """A file, name or value that cannot be used; the message is one line that names it. Exit code 2."""


class ReportError(RuntimeError):
    """A notebook failed; the message names notebook, cell and error, and where the partial notebook is. Exit code 1."""


def one_line(error: BaseException, most: int = 300) -> str:
    """Kind and message of somebody else's error, without line breaks, cut off after `most` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


def printable(text: str, most: int = 2000) -> str:
    """A message as one line that can be printed: what is no visible character is escaped, a long middle left out."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
