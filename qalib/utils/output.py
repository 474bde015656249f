"""Standard output and standard error, whatever the terminal's encoding."""

import io
import sys


def escape_unencodable() -> None:
    """Let both streams escape the characters that their encoding lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def is_unicode() -> bool:
    """Whether standard output can hold every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
