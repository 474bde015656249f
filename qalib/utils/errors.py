"""Errors: the two that end a command with a one-line message, and helpers that make other messages one line."""

import re


class InputError(ValueError):
    """A file, name or value that cannot be used; the message names it in one line. Exit code 2."""


class ReportError(RuntimeError):
    """A notebook failed; the message names notebook, cell and error, and where the partial notebook is. Exit code 1."""


NO_HOME = "there is no home directory; set HOME to a folder that can be written"


def is_homeless(error: BaseException) -> bool:
    """Whether Python, called by whichever library, has found no home directory for this user."""
    return isinstance(error, RuntimeError) and "home directory" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or the system says that there is not enough memory."""
    texts = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")
    kind = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return kind or any(text in str(error) for text in texts)


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of a library in Rust, as tokenizers, which is no Exception."""
    return type(error).__name__ == "PanicException"


def one_line(error: BaseException, limit: int = 300) -> str:
    """Type and message of a library's error, without line breaks, the message cut off after `limit` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:limit]}"


def without_controls(text: str) -> str:
    """A text for a terminal, its control characters escaped: those of ANSI sequences, line breaks, C1."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: found[0].encode("unicode_escape").decode(), text)


def printable(text: str, limit: int = 2000) -> str:
    """A message as one printable line: unprintable characters are escaped, a long middle is left out."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
