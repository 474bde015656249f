"""Timing: candidates in turn, round after round; medians, and the rounds themselves."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from qalib.utils.errors import InputError

Key = TypeVar("Key")


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Interquartile range, first to third quartile, in seconds (0 for a single round)."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return third - first


def interleave(
    candidates: dict[Key, Callable[[], object]], repeats: int = 7, warmup: int = 1, progress: bool = True
) -> dict[Key, Timing]:
    """Time the candidates in turn: `warmup` rounds that do not count, then `repeats` that do. Seconds.

    Raises InputError for less than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"{repeats} repeats after {warmup} rounds of warm-up: at least 1 and 0 are needed")
    seconds: dict[Key, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    with tqdm(total=(warmup + repeats) * len(order), unit="pass", desc="timing", disable=not progress) as bar:
        for round_number in range(warmup + repeats):
            for name in order:
                bar.set_postfix_str(f"round {round_number + 1} of {warmup + repeats}: {name}")
                started = time.perf_counter()
                candidates[name]()
                if round_number >= warmup:
                    seconds[name].append(time.perf_counter() - started)
                bar.update()
            order = order[1:] + order[:1]
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
