"""Output: streams in whatever encoding, and objects shown in a notebook."""

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


class ShownInNotebooks:
    """An object that a notebook shows by the lines of its `repr`, the first of them in bold.

    >>> class Example(ShownInNotebooks):
    ...     __repr__ = lambda self: "a < b\\n  more"
    >>> Example()._repr_html_()
    '<div><b>a &lt; b</b><br>more</div>'
    """

    def _repr_html_(self) -> str:
        first, *rest = (escape(line.strip()) for line in repr(self).splitlines())
        return f"<div>{'<br>'.join([f'<b>{first}</b>', *rest])}</div>"
