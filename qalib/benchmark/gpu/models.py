"""Runtimes end to end on a GPU, side by side with dense: eager, and compiled into CUDA graphs."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from qalib.benchmark import latency
from qalib.benchmark.gpu.settings import Rows, Settings, model_of
from qalib.model.checkpoint import Checkpoint
from qalib.utils.errors import one_line


def end_to_end(settings: Settings, part: str) -> None:
    """A forward pass under each candidate (rows as of `latency.compare`), those of a type in turn, round after round.

    Where one fails in a way that ends the comparison, each is held against dense alone, and the others have their rows.
    """
    rows = Rows(settings, part)
    types = list(dict.fromkeys(dtype for _, dtype in settings.candidates))
    with model_of(part, settings) as loaded:
        for batch, length in settings.shapes:
            for dtype in types:
                names = [name for name, kind in settings.candidates if kind == dtype]
                about = {"dtype": dtype, "batch": batch, "length": length}
                for row in _side_by_side(loaded, names, about, settings):
                    rows.add(row)


def _side_by_side(
    loaded: Checkpoint, names: Sequence[str], about: dict[str, Any], settings: Settings
) -> Iterator[dict[str, Any]]:
    try:
        found = _compared(loaded, names, about, settings)
    except Exception as error:
        if len(names) == 1:
            yield {"runtime": names[0]} | about | {"error": one_line(error)}
            return
    else:
        yield from found
        return
    seen: set[tuple[str, str]] = set()
    for row in (row for name in names for row in _side_by_side(loaded, [name], about, settings)):
        if (key := (row["runtime"], row["dtype"])) not in seen:
            seen.add(key)
            yield row


def _compared(
    loaded: Checkpoint, names: Sequence[str], about: dict[str, Any], settings: Settings
) -> list[dict[str, Any]]:
    began = time.perf_counter()
    table = latency.compare(
        loaded, names, [about["dtype"]], about["batch"], about["length"], settings.device, progress=False
    )
    seconds = {"seconds_in_all": time.perf_counter() - began}
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} | seconds for row in rows]
