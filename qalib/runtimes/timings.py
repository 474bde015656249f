"""Timings that decide what runs: taken on the machine at hand, and stored in files, once per machine."""

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.files import read_json_object, write_json

ROUNDS, BUDGET = 3, 0.1  # at least so many rounds, and more for so many seconds
Key = TypeVar("Key")


def cached(table: Path, key: str, find: Callable[[], Any], is_valid: Callable[[Any], bool] = lambda value: True) -> Any:
    """Return the value of a key in a JSON file; if there is none, or none that is valid, that of `find`, and store it.

    A file that cannot be read, or is damaged, counts as empty, and one that cannot be written is left as it is: then it
    is timed again next time. None is not stored.
    """
    try:
        table = table.expanduser()
    except RuntimeError:  # a user without a home directory
        return find()
    known = _read(table)
    if key in known and is_valid(known[key]):
        return known[key]
    if (value := find()) is not None:
        with contextlib.suppress(OSError):
            write_json(table, _read(table) | {key: value})  # read again: another process may have written
    return value


def _read(table: Path) -> dict[str, Any]:
    try:
        return read_json_object(table, "of timings")
    except InputError:
        return {}


def machine_key(device: str = "cpu") -> str:
    """What the seconds of a layer depend on: hardware and what caps it, threads, libraries."""
    specs = machine.specs()
    card = [torch.cuda.get_device_name()] if device == "cuda" else []
    caps = [f"{name}={value}" for name, value in machine.caps().items()]
    libraries = [f"torch {torch.__version__}", f"qalib {machine.versions()['qalib']}"]
    hardware = [*card, str(specs["CPU"]), str(specs["instruction sets"])]
    return ", ".join([*hardware, *caps, f"{torch.get_num_threads()} threads", *libraries])


def shortest_seconds(calls: dict[Key, Callable[[], Any]], device: str = "cpu") -> dict[Key, float]:
    """Return the shortest seconds of each call over rounds in which all take turns.

    On a CPU they are the CPU time of one thread, which hardly depends on what else the machine is doing; where such a
    clock stands still, elapsed time.
    """
    by_thread = device == "cpu" and time.get_clock_info("thread_time").resolution < 1e-5
    shortest = _shortest(calls, time.thread_time) if by_thread else {}
    return shortest if shortest and min(shortest.values()) > 0 else _shortest(calls, time.perf_counter)


def _shortest(calls: dict[Key, Callable[[], Any]], clock: Callable[[], float]) -> dict[Key, float]:
    times: dict[Key, list[float]] = {key: [] for key in calls}
    threads, started = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    try:
        for number in itertools.count():
            if number >= ROUNDS and time.perf_counter() - started > BUDGET:
                break
            for key, call in calls.items():
                begun = clock()
                call()
                times[key].append(clock() - begun)
    finally:
        torch.set_num_threads(threads)
    return {key: min(values) for key, values in times.items()}
