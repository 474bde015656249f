"""Faults: processes killed at random moments, disks that are full or read-only, two at once."""

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qalib.utils.files import read_json, sha256, write_json
from reliability import determinism, trial
from reliability.trial import Section


class Evaluate:
    """`qalib evaluate --predictions`: one file."""

    name = "qalib evaluate --predictions"

    def command(self, place: Path, folder: Path) -> list:
        """The command that makes it in a folder."""
        _, packed = trial.tiny(place)
        return [
            "evaluate",
            "--model",
            packed,
            "--data",
            trial.asked(place / "200.json", 200),
            "--predictions",
            folder / "final",
        ]

    def contents(self, final: Path) -> Any:
        """What is made, times left out."""
        return read_json(final)


class Prune(Evaluate):
    """`qalib prune --resume`: a checkpoint."""

    name = "qalib prune --resume"

    def command(self, place: Path, folder: Path) -> list:
        dense, _ = trial.tiny(place)
        data = trial.asked(place / "48.json", 48)
        return ["prune", "--data", data, "--teacher", dense, "--out", folder / "final", "--block", "4x4",
                "--epochs", 15, "--batch", 4, "--precision", "fp32", "--save-minutes", 0.005, "--resume",
                "--teacher-cache", folder / "teachers"]  # fmt: skip

    def contents(self, final: Path) -> Any:
        meta = read_json(final / "model_meta.json")
        kept = {key: meta[key] for key in ("density", "steps", "windows_seen", "data", "teacher", "versions")}
        return {"weights": sha256(final / "model.packed.safetensors"), "files": sorted(os.listdir(final)), "meta": kept}


class Report(Evaluate):
    """`qalib report` over an earlier one."""

    name = "qalib report"

    def command(self, place: Path, folder: Path) -> list:
        return determinism.command(place, folder / "final")

    def contents(self, final: Path) -> Any:
        return determinism.contents(final)


TRIALS = (Evaluate(), Prune(), Report())
EARLIER = '"earlier"'


def _fresh(folder: Path, tried: Evaluate) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if isinstance(tried, Report):
        (folder / "final").mkdir()
        (folder / "final" / "manifest.json").write_text(EARLIER)
    return folder / "final"


def _whole(tried: Evaluate, final: Path, expected: Any) -> str:
    """What stands under the final name: nothing, the earlier one, all of the new one; or why it is none of these."""
    if not final.exists():
        return "nothing"
    if isinstance(tried, Report) and (final / "manifest.json").exists() and len(os.listdir(final)) == 1:
        return "the earlier one" if (final / "manifest.json").read_text() == EARLIER else "a part"
    try:
        return "all of it" if tried.contents(final) == expected else "a part"
    except Exception as error:  # whatever half a file leads to
        return f"a part ({error})"


def killed(counts: dict[str, int] | None = None) -> Section:
    """Kill each command so often, each time going on from what the last kill left, and run it to its end."""
    section = Section(
        "Killed at random moments", "`kill -9` at a moment drawn between the start and the time that an undisturbed "
        "run takes; started again on what is left, and killed again; at the end one run is left alone.",
        ("command", "undisturbed run", "kills", "under the final name after a kill", "equal at the end"),
    )  # fmt: skip
    rng = random.Random(trial.SEED)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for tried in TRIALS:
            count = (counts or {}).get(tried.name, 0 if counts else 10)
            if count:
                _killed(section, tried, count, place, rng)
    section.notes += [
        "equal: the same files with the same content as the undisturbed run, times apart (as under Same again); of a "
        "pruned model the weights to the bit",
        "a report that is killed has an earlier one under its name, which must stay until the new one is whole",
        "what the killed process had started must be gone within a minute",
    ]
    return section


def _killed(section: Section, tried: Evaluate, count: int, place: Path, rng: random.Random) -> None:
    began = time.perf_counter()
    _fresh(place / "reference", tried)
    ended = trial.finish(trial.start(*tried.command(place, place / "reference")))
    seconds = time.perf_counter() - began
    if not section.expect(ended.code == 0, f"{tried.name}: {ended.err[-500:]}"):
        return
    expected, seen, same, runs, done = tried.contents(place / "reference" / "final"), {}, 0, 0, 0
    folder = place / "killed"
    final = _fresh(folder, tried)
    while done < count or final is not None:
        process = trial.start(*tried.command(place, folder), stdout=subprocess.DEVNULL)
        try:
            ended = trial.finish(process, rng.uniform(0.05, 1) * seconds if done < count else 600)
        except trial.Killed as error:
            done += 1
            section.expect(not error.left, f"{tried.name}, kill {done}: {error}")
            state = _whole(tried, final, expected)
            seen[state] = seen.get(state, 0) + 1
            section.expect(not state.startswith("a part"), f"{tried.name}, kill {done}: {state} under the final name")
            continue
        refused = isinstance(tried, Prune) and "exists already" in ended.err  # killed when all was done
        equal = (ended.code == 0 or refused) and tried.contents(final) == expected
        runs, same = runs + 1, same + equal
        section.expect(equal, f"{tried.name} after {done} kills: code {ended.code}, {ended.err[-500:]}")
        final = _fresh(folder, tried) if done < count else None
    states = ", ".join(f"{state} ({number})" for state, number in sorted(seen.items()))
    section.row(tried.name, f"{seconds:.1f} s", done, states, f"{same} of {trial.of(runs, 'run')}")


class NoDisk(Exception):
    """No file system can be mounted here."""


@contextmanager
def small_disk(size: str = "6m") -> Iterator[Path]:
    """A file system of its own. Raises NoDisk if there cannot be one here."""
    with tempfile.TemporaryDirectory() as name:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name], capture_output=True, text=True
        )
        if made.returncode:
            raise NoDisk(made.stderr.strip() or "mount failed")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def _read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def _filled(disk: Path) -> None:
    with suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def disks(commands: tuple[str, ...] = ("evaluate", "export", "sparsity", "prune", "report")) -> Section:
    """Write onto a disk that is full, or may not be written."""
    section = Section(
        "Full and read-only disks", "Output into a folder on a tmpfs that is full, or mounted read-only, where an "
        "earlier output stands.", ("command", "disk", "exit code", "earlier output", "what it says"),
    )  # fmt: skip
    states: dict[str, Callable[[Path], None]] = {"full": _filled, "read-only": _read_only}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for command in commands:
            for state, make in states.items():
                try:
                    with small_disk() as disk:
                        _disk(section, command, state, make, place, disk)
                except NoDisk as error:
                    section.row(command, state, "", "", f"skipped: {error}")
    section.notes.append(
        "expected: exit code 1 or 2, a last line that begins with `qalib:`, no traceback, and no file changed"
    )
    return section


def _disk(section: Section, command: str, state: str, make: Callable, place: Path, disk: Path) -> None:
    dense, packed = trial.tiny(place)
    data, out = trial.asked(place / "eight.json"), disk / "out"
    given = {
        "evaluate": ["evaluate", "--model", packed, "--data", data, "--predictions", out / "manifest.json"],
        "export": ["export", "--model", packed, "--out", disk / "new"],
        "sparsity": ["sparsity", "--model", packed, "--out", out],
        "prune": ["prune", "--data", data, "--teacher", dense, "--out", disk / "new", "--block", "4x4", "--epochs", 1],
        "report": determinism.command(place, out),
    }[command]
    write_json(out / "manifest.json", "earlier")
    make(disk)
    before = trial.files(out)
    found = trial.finish(trial.start(*given))
    lines, after = found.err.strip().splitlines() or [""], trial.files(out)
    untouched = before == after and read_json(out / "manifest.json") == "earlier" and not (disk / "new").exists()
    said = lines[-1].replace(str(disk), "DISK").replace(str(place), "")
    good = found.code in (1, 2) and said.startswith("qalib: ") and "Traceback" not in found.err and untouched
    section.row(command, state, found.code, "untouched" if untouched else "changed", f"`{said[:150]}`")
    section.expect(
        good, f"{command}, {state}: code {found.code}, {sorted(after.keys() ^ before.keys())}, {found.err[-600:]}"
    )


def two_at_once() -> Section:
    """Two reports into one folder."""
    section = Section(
        "Two at once",
        "While one `qalib report` is at work, a second into the same folder.",
        ("run", "exit code", "what it says"),
    )
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        given = determinism.command(place, place / "out")
        first, deadline = trial.start(*given), time.monotonic() + 120
        while not (place / ".out.draft").exists() and time.monotonic() < deadline and first.poll() is None:
            time.sleep(0.05)
        second, ended = trial.call(*given), trial.finish(first)
        said = second.err.strip().replace(str(place), "")
        section.row("the second", second.code, f"`{said}`")
        section.row("the first", ended.code, "")
        section.expect(second.code == 2 and "another run is writing this report" in said, f"the second: {second}")
        section.expect(ended.code == 0 and (place / "out" / "index.html").exists(), f"the first: {ended.err[-600:]}")
    return section
