"""Processes on this machine that share one evaluation, like those that `accelerate launch` starts on many machines.

On a CPU, several processes with one core each can be faster than one with all cores: none waits for the slowest thread.
"""

import gc
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, patch_environment
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # pyright: ignore[reportAttributeAccessIssue]  # compiled
from tqdm import tqdm

from qalib.utils.errors import InputError

_groups = itertools.count(1)  # those that this process has joined again


def run(processes: int, function: Callable, *arguments: Any) -> Any:
    """What `function(*arguments)` returns; with more than one process, what it returns in the first.

    The function is called in each process, with an equal share of the threads, and finds the others through
    `accelerate.PartialState`. Raises InputError if the function does, or if a process dies; the others are then ended.
    """
    if processes == 1:
        return function(*arguments)
    if "RANK" in os.environ:
        raise InputError(f"{processes} processes: this is already one of {os.environ.get('WORLD_SIZE')}")
    config = LaunchConfig(
        1, 1, processes, local_addr="localhost", max_restarts=0, start_method="spawn",
        signals_to_handle="",  # torch's handlers would stay afterwards
        run_id=str(os.getpid()), rdzv_backend="c10d", rdzv_endpoint="localhost:0",
    )  # fmt: skip
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):  # they print tracebacks when a process dies
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with patch_environment(omp_num_threads=max(1, torch.get_num_threads() // processes)):
            found = elastic_launch(config, _member)(function, arguments, os.getpid())[0]
    except BaseException as error:
        print(file=sys.stderr)  # ends the line of an interrupted progress bar
        if not isinstance(error, ChildFailedError):
            raise
        rank, failure = error.get_first_failure()
        raise InputError(f"process {rank} of {processes} ended with exit code {failure.exitcode}") from None
    if isinstance(found, InputError):
        raise found
    return found


def _member(function: Callable, arguments: tuple, starter: int) -> Any:
    _prctl_pr_set_pdeathsig(signal.SIGKILL)  # die with the process that started this one (Linux)
    if os.getppid() != starter:  # it is dead already
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one, which ends it
    tqdm.set_lock(threading.RLock())  # the usual one is a system semaphore, which a killed process would leave behind
    try:
        found = function(*arguments)
    except InputError as error:  # the same in every process; returned, so that it does not look like a crash
        found = error
    leader = int(os.environ["RANK"]) == 0
    if torch.distributed.is_initialized():
        _leave()
    return found if leader else None


def of_main_process(find: Callable[[], Any]) -> Any:
    """Return, in every process, what `find()` returns in the main process; an InputError is raised in every process."""
    if PartialState().num_processes == 1:
        return find()
    outcome = None
    if is_main_process():
        try:
            outcome = find()
        except InputError as error:
            outcome = error
    outcome = broadcast_object_list([outcome])[0]
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


@contextmanager
def joined(cpu: bool) -> Iterator[None]:
    """Join the other processes, if there are any, on CPUs or GPUs; leave them, all together, when the block is done.

    A process that had joined before stays. What the block made must be out of scope at its end, so that nothing refers
    to the process group any more.
    """
    joins = not torch.distributed.is_initialized()
    if joins and PartialState._shared_state.get("num_processes", 1) > 1:  # left before
        AcceleratorState._reset_state(reset_partial_state=True)
        if cpu:
            _rejoin()
    PartialState(cpu=cpu)
    yield
    if joins and torch.distributed.is_initialized():
        _leave()


def _rejoin() -> None:
    """Make a new process group, with keys of its own in the store that the processes share.

    Those of the group that was left still name its sockets, which a process would try to reach for half an hour.
    """
    store, rank, size = next(rendezvous("env://"))
    torch.distributed.init_process_group(
        "gloo", store=PrefixStore(f"group {next(_groups)}", store), rank=rank, world_size=size
    )


def _leave() -> None:
    """Destroy the process group, and with it gloo's threads.

    These release a finished collective's tensors late, for which they take Python's GIL; if the interpreter is being
    finalised by then, it aborts. The group outlives its destruction while a reference cycle, as in a training run,
    refers to it.
    """
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return PartialState().is_main_process
