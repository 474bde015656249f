"""Folders that exist already: whether they can be written to, and files that are added to them all at once."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qalib.utils.errors import InputError
from qalib.utils.files import is_device


def require_writable(path: Path | str) -> None:
    """Raise InputError if this user may write neither a file at a path nor into a folder there."""
    if is_device(path):
        return
    target = Path(os.path.realpath(path))
    folder = target if target.is_dir() else next(parent for parent in target.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise InputError(f"{path}: cannot be written; {folder} must be a folder that this user may write to")


def copy_into(path: Path, folder: Path) -> None:
    """Copy a file into a folder, under its name.

    Raises InputError if it is a link to a file outside its own folder, unless to the blobs of the hub's cache: in a
    folder from elsewhere, such a link could publish any file of this machine.
    """
    origin, target = path.parent.resolve(), path.resolve()
    blobs = [origin.parents[1] / "blobs"] if origin.parent.name == "snapshots" else []
    if not any(target.is_relative_to(place) for place in (origin, *blobs)):
        raise InputError(f"{path}: is a link to {target}, outside its folder, and not copied; put the file there")
    shutil.copy(path, folder)


@contextmanager
def added_files(out: Path | str) -> Iterator[Path]:
    """Yield an empty folder whose files are moved to `out` once the block ends without an error; others there stay.

    An interruption while they are moved waits until all are. Raises OSError naming the file in `out`.
    """
    out = Path(out)
    place = next(folder for folder in (out, *Path(os.path.abspath(out)).parents) if folder.is_dir())
    draft = Path(tempfile.mkdtemp(dir=place, prefix=".qalib."))
    try:
        yield draft
        with _uninterrupted():
            for path in filter(Path.is_file, sorted(draft.rglob("*"))):
                target = out / path.relative_to(draft)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    except OSError as error:  # which may name the draft
        name = str(error.filename or out)
        raise OSError(error.errno, error.strerror, name.replace(str(draft), str(out))) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of a block; in another thread than the main one, which gets none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: arrived.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for number in arrived[:1]:
        signal.raise_signal(number)
