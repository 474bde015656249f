"""Interruption: every command ends on Ctrl-C and SIGTERM in the same way."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RESUMING = {
    "prune": "the same command with --resume goes on from the last checkpoint",
    "report": "the same command goes on after the notebooks that are done",
}
STARTING_AGAIN = "the same command starts again"


_arrived: list[int] = []  # signals


class Interrupted(SystemExit):
    """SIGINT or SIGTERM has arrived; its code is 130 or 143.

    It is a SystemExit, which libraries let pass, and which also leaves an event loop.
    """

    code: int


@contextmanager
def raised() -> Iterator[None]:
    """Have SIGINT and SIGTERM raise Interrupted in a block, so that what is half-written is removed.

    A second signal ends the process at once.
    """
    before = [signal.getsignal(number) for number in SIGNALS]
    _arrived.clear()
    _handle(_interrupt)
    if hasattr(signal, "pthread_kill"):  # not on Windows
        sys.unraisablehook = _repeat
    try:
        yield
    finally:
        _handle(*before)
        sys.unraisablehook = sys.__unraisablehook__


def _handle(interrupt: Any, terminate: Any = None) -> None:
    for number, handler in zip(SIGNALS, (interrupt, terminate or interrupt), strict=True):
        signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _handle(signal.SIG_DFL)
    _arrived.append(number)
    raise Interrupted(128 + number)


def exit_code() -> int | None:
    """130 or 143 once a signal has arrived; libraries may turn Interrupted into errors of their own."""
    return 128 + _arrived[0] if _arrived else None


def _repeat(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception was raised where Python drops exceptions, as in `__del__`."""
    if not isinstance(lost.exc_value, Interrupted):
        return sys.__unraisablehook__(lost)
    _handle(_interrupt)
    main = threading.main_thread().ident
    threading.Timer(0.05, signal.pthread_kill, [main, lost.exc_value.code - 128]).start()


def notice(command: str) -> str:
    """What an interrupted command says: that nothing is half-written, and how to go on."""
    return f"interrupted; nothing is half-written, and {RESUMING.get(command, STARTING_AGAIN)}"


def end(code: int | str | None) -> NoReturn:
    """End the process with a code.

    One that still belongs to a group of processes, after an error, skips the interpreter's finalisation, during which
    gloo's threads can abort it.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)
