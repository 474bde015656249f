"""Sweeps: the benchmark at several densities, lengths or numbers of threads: where a runtime begins to pay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import psutil
import torch

from qalib.benchmark import latency, profile
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import magnitude
from qalib.utils import openmp
from qalib.utils.errors import InputError

DENSITIES = (0.05, 0.1, 0.2, 0.317, 0.5, 0.75, 1.0)
LENGTHS = (16, 64, 128, 256, 384, 512)


def density(checkpoint: Checkpoint, densities: Sequence[float] = DENSITIES, **rest) -> pd.DataFrame:
    """`latency.compare` with random blocks kept, as many in every encoder matrix; adds the column density (0 to 1).

    The weights are the checkpoint's, and random ones where it has none: for times, not for answers.
    """
    full = profile.without_zeros(checkpoint)

    def timed(value: float) -> pd.DataFrame:
        return latency.compare(magnitude.prune(full, value, checkpoint.block, "random"), **rest)

    return _all("density", densities, timed)


def length(checkpoint: Checkpoint, lengths: Sequence[int] = LENGTHS, **rest) -> pd.DataFrame:
    """`latency.compare` with windows of these lengths in tokens, and the same batch size."""
    return _all("length", lengths, lambda value: latency.compare(checkpoint, length=value, **rest))


def threads(checkpoint: Checkpoint, counts: Sequence[int] | None = None, **rest) -> pd.DataFrame:
    """`latency.compare` with these numbers of threads, for dense too; by default 1, 2, 4 and so on up to all cores."""
    cores = psutil.cpu_count(logical=False) or 1
    counts = counts or [n for n in (2**k for k in range(16)) if n < cores] + [cores]

    def timed(count: int) -> pd.DataFrame:
        with _threads(count):
            return latency.compare(checkpoint, **rest)

    return _all("threads", counts, timed)


SWEEPS = {"density": density, "length": length, "threads": threads}


def break_even(rows: pd.DataFrame, runtime: str) -> tuple[float | None, str]:
    """The density below which a runtime, in its fastest type, is faster than the fastest dense run; else why not.

    `rows` is a table of `density`. Between the densities timed, speedups are interpolated.
    """
    fastest = rows[rows.runtime == runtime].groupby("density").speedup_over_best.max()
    points = [(float(density), float(speedup)) for density, speedup in fastest.reset_index().to_numpy()]
    for (low, fast), (high, slow) in zip(points, points[1:], strict=False):
        if fast >= 1 > slow:
            return float(low + (high - low) * (fast - 1) / (fast - slow)), ""
    timed = "at every density timed" if len(points) > 1 else "at the only density timed"
    faster = bool(points) and min(speedup for _, speedup in points) >= 1
    return None, f"{'faster' if faster else 'not faster'} than the fastest dense run {timed}"


def _all(over: str, values: Sequence, timed: Callable) -> pd.DataFrame:
    if not values:
        raise InputError(f"no {over} to time")
    return pd.concat([timed(value).assign(**{over: value}) for value in values], ignore_index=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    if count < 1:
        raise InputError(f"{count} threads: at least 1 is needed")
    if count > (granted := openmp.granted_threads() or count):
        raise InputError(f"{count} threads: OpenMP grants {granted} under {openmp.limits()}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
