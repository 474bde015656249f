"""Quantities: a value with unit, definition and source, dataclass fields that carry these, and both in words."""

from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Number:
    """A value with its unit, its meaning and where it was computed.

    None means that it was not measured; `note` then says why.
    """

    name: str
    value: Value
    unit: str
    definition: str
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.note:
            raise ValueError(f"number {self.name!r} has no value and no note saying why")


def measure(unit: str, definition: str, none: str = "") -> Any:
    """A dataclass field with unit and definition, and what None means, for `Results.measured`."""
    return field(metadata={"unit": unit, "definition": definition, "none": none})


UNIT_SUFFIXES = {"percent": "%", "seconds": "s", "ms": "ms", "bytes": "bytes", "megabytes": "MB"}
SPELLING = {"f1": "F1", "ffn": "FFN", "id": "ID", "gflops": "GFLOP/s"}


def words(name: str, unit: bool = False) -> str:
    """A field or column name in words; its unit, if the name ends in one, is in brackets if `unit`, else left out.

    >>> words("heads_called_removed_percent"), words("median_ms", unit=True), words("f1")
    ('heads called removed', 'median (ms)', 'F1')
    """
    parts = name.split("_")
    suffix = UNIT_SUFFIXES.get(parts[-1]) if len(parts) > 1 else None
    spelled = " ".join(SPELLING.get(part, part) for part in (parts[:-1] if suffix else parts))
    return f"{spelled} ({suffix})" if suffix and unit else spelled


def readable(value: Value, unit: str) -> str:
    """A value with its unit for people: separators, two decimals, MB for bytes, billions for multiply-adds.

    >>> readable(31.3463, "%"), readable(4756635648, "multiply-adds"), readable(15871260, "bytes"), readable(None, "%")
    ('31.35 %', '4.76 billion', '15.9 MB', 'not measured')
    """
    match value, unit:
        case None, _:
            return "not measured"
        case ((str() | bool()), _):
            return str(value)
        case _, "bytes":
            return f"{value / 1e6:,.1f} MB"
        case _, "multiply-adds":
            return f"{value / 1e9:,.2f} billion" if value >= 1e9 else f"{value / 1e6:,.2f} million"
    number = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
    return number if unit in ("count", "1", "text") else f"{number}x" if unit == "x" else f"{number} {unit}"
