"""Quantities: a value with unit, definition and source, and dataclass fields that carry these."""

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


def measure(unit: str, definition: str) -> Any:
    """A dataclass field with unit and definition, for `Results.measured`."""
    return field(metadata={"unit": unit, "definition": definition})
