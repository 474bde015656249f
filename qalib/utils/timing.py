"""Timing: candidates in turn, round after round; medians, and the rounds themselves."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm

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

    @property
    def p99(self) -> float | None:
        """The 99th percentile in seconds; None of fewer than 100 rounds, where it would be their largest."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[98] if len(self.seconds) >= 100 else None


class Seconds(float):
    """What a candidate returns that has timed itself, in a process of its own: this counts, not how long it took."""


def interleave(
    candidates: Mapping[Key, Callable[[], object]],
    repeats: int = 7,
    warmup: int = 1,
    progress: bool = True,
    slow: float = math.inf,
) -> dict[Key, Timing]:
    """Time the candidates in turn: `warmup` rounds that do not count, then `repeats` that do. Seconds.

    A candidate whose last warm-up took more than `slow` times as long as the first candidate's sits out all rounds but
    two: it would take most of the run's time. One that returns `Seconds` took those.

    Raises InputError for fewer than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"{repeats} repeats after {warmup} rounds of warm-up: at least 1 and 0 are needed")
    seconds: dict[Key, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    brief: set[Key] = set()
    with tqdm(total=(warmup + repeats) * len(order), unit="pass", desc="timing", disable=not progress) as bar:
        for round_number in range(-warmup, repeats):
            for name in order:
                if name in brief and round_number >= 2:
                    continue
                label = " ".join(map(str, name)) if isinstance(name, tuple) else str(name)
                bar.set_postfix_str(f"round {round_number + warmup + 1} of {warmup + repeats}: {label}")
                started = time.perf_counter()
                found = candidates[name]()
                passed = time.perf_counter() - started
                seconds[name].append(float(found) if isinstance(found, Seconds) else passed)
                bar.update()
            if round_number == -1:
                brief = {name for name in order if seconds[name][-1] > slow * seconds[next(iter(candidates))][-1]}
                bar.total -= len(brief) * max(0, repeats - 2)
            order = order[1:] + order[:1]
    return {name: Timing(tuple(values[warmup:])) for name, values in seconds.items()}
