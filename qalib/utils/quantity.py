"""Quantities: a value with its unit, its definition and its source, and dataclass fields that carry them."""

from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Number:
    """A value with its unit, what it means and where it was computed.

    A value of None was not measured; `note` then says why.
    """

    name: str
    value: Value
    unit: str
    definition: str
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.note:
            raise ValueError(f"number {self.name!r} has no value and no note that says why")


def measure(unit: str, definition: str) -> Any:
    """A dataclass field that says what it holds, for `Results.measured`."""
    return field(metadata={"unit": unit, "definition": definition})
