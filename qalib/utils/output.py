"""Output: streams in whatever encoding, and lines of text for a notebook."""

import io
import sys
from html import escape


def escape_unencodable() -> None:
    """Let both streams escape the characters that their encoding lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def is_unicode() -> bool:
    """Whether standard output can hold every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def lines_as_html(text: str) -> str:
    """Lines of text as HTML, the first of them in bold.

    >>> lines_as_html("a < b\\n  more")
    '<div><b>a &lt; b</b><br>more</div>'
    """
    first, *rest = (escape(line.strip()) for line in text.splitlines())
    return f"<div>{'<br>'.join([f'<b>{first}</b>', *rest])}</div>"
