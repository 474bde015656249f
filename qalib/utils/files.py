"""Files: hashing, reading with clear errors, and writing so that a file or folder appears only once it is complete."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qalib.utils.errors import InputError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how a pointer begins


def sha256(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_device(path: Path | str) -> bool:
    """Whether a path is a pipe or a device, or stands for one, as /dev/stdout does for whatever it goes to."""
    path = Path(path)
    return path.exists() and (path.is_relative_to("/dev") or not (path.is_file() or path.is_dir()))


def require_file(path: Path | str) -> None:
    """Raise InputError if a path that exists is not a file with its content: a pipe, a device, a folder, a file that
    cannot be read, or a Git LFS pointer, which Git leaves in place of a large file it has not fetched."""
    if is_device(path):
        raise InputError(f"{path}: a regular file is required, found a pipe or a device; save its content as a file")
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
    except FileNotFoundError:
        return  # reading the file reports it
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if start == LFS_POINTER:
        raise InputError(f"{path}: a Git LFS pointer instead of the file; `git lfs pull` fetches the file")


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped). Raises InputError naming the file."""
    require_file(path)
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None


def read_json(path: Path | str, lines: bool = False) -> Any:
    """The value in a JSON file; with `lines`, JSON Lines (several objects, one a line) are read as their list.

    Raises InputError naming the file, and the line where it breaks.
    """
    text = read_text(path)
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()] if lines else []
    if len(rows) > 1 and _is_json_object(rows[0][1]):
        return [_parse(line, path, number) for number, line in rows]
    return _parse(text, path)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _parse(text: str, path: Path | str, line: int = 1) -> Any:
    """The value of a text that begins in that line of a file."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if "\\ud" in text or "\\uD" in text:  # the only way to write half a character
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        place = f"line {error.lineno + line - 1}, column {error.colno}"
        raise InputError(f"{path}: not JSON ({place}: {error.msg})") from None
    except RecursionError:
        raise InputError(f"{path}: not usable JSON (nested too deeply)") from None
    except UnicodeEncodeError as error:
        half, before = error.object[error.start], error.object[max(0, error.start - 30) : error.start]
        raise InputError(f"{path}: unpaired surrogate {half!r} after {before!r}") from None
    except ValueError as error:
        raise InputError(f"{path}: not usable JSON ({error})") from None


def read_json_object(path: Path | str, contents: str) -> dict[str, Any]:
    """The object in a JSON file; `contents` says of what, for the error. Raises InputError if it is none."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object {contents}, found {type(value).__name__}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice in one object")
    return value


def write_text(path: Path | str, text: str) -> Path:
    """Write a file in one step: readers see the old content or the new, never part of it.

    A link is followed; a pipe or a device, as /dev/stdout, gets the text.
    """
    path = Path(path)
    try:
        if is_device(path):
            path.write_text(text, encoding="utf-8", newline="\n")
            return path
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:  # which names the temporary file, or none
        raise OSError(error.errno, error.strerror, str(path)) from None
    return path


def write_json(path: Path | str, value: Any) -> Path:
    """Write `value` as indented JSON, in one step."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def require_vacant(path: Path) -> None:
    """Raise InputError if a path exists and is not an empty folder: nothing is overwritten."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already and is not an empty folder; choose another name")


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder that takes the name `path` only if the block ends without an error. A link is followed.

    Raises InputError if `path` is not vacant.
    """
    require_vacant(Path(path))
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:  # which names the draft
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        yield draft
        os.chmod(draft, 0o755)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def restore_folder(out: Path) -> None:
    """Give the earlier folder its name back, if `replace_folder` was killed between its two steps."""
    old = out.parent / f".{out.name}.old"
    if old.exists() and not out.exists():
        old.rename(out)


def replace_folder(draft: Path, out: Path) -> None:
    """Put the draft in the place of `out`; an earlier folder is deleted only after that."""
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)
