"""Tables: their rows as objects."""

from collections.abc import Iterator
from typing import Any

import pandas as pd


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, as `itertuples` gives them, with fields of any type."""
    return iter(table.itertuples())
