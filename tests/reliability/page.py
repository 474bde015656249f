"""Run the trials, each in a process of its own, and write the page of what came out: `make reliability`.

    python -m reliability.page OUT [NAME ...]

What each trial found is kept beside the page, in OUT with .json: with names only those trials are run again, and the
page is written anew with what the others found when they were run. A trial that breaks is said on the page and does not
stop the others; the exit code is 1 if one broke or an expectation failed.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reliability.trial import ENVIRONMENT, ROOT, Section

TRIALS = {
    "inputs": "inputs.fuzz", "processes": "inputs.processes", "places": "spans.places", "scores": "spans.scores",
    "killed": "faults.killed", "disks": "faults.disks", "two": "faults.two_at_once", "twice": "determinism.twice",
    "code": "untrusted.code", "pages": "untrusted.pages", "interrupted": "attacks.interrupted",
    "links": "attacks.places", "tokenizers": "attacks.tokenizers", "long": "attacks.long", "parts": "speeds.parts",
    "loading": "speeds.loading", "memory": "scale.memory", "shared": "scale.shared", "training": "scale.training",
    "several": "scale.several",
}  # fmt: skip


def run(name: str, out: Path) -> None:
    """One trial in this process, its section written as JSON."""
    import importlib

    import torch

    module, function = TRIALS[name].split(".")
    if name not in ("parts", "loading"):  # tiny models: more threads only wait for one another
        torch.set_num_threads(1)
    out.write_text(
        json.dumps(asdict(getattr(importlib.import_module(f"reliability.{module}"), function)()), default=str)
    )


def collect(names: list[str]) -> dict[str, dict[str, Any]]:
    """Every trial's section, seconds, day and commit; one that broke as a section that says so."""
    found: dict[str, dict[str, Any]] = {}
    commit = _git("describe", "--always") or "unknown"
    commit += " with changes" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports") else ""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            out, began = Path(folder) / f"{name}.json", time.perf_counter()
            print(f"[{len(found) + 1}/{len(names)}] {name}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "reliability.page", "--one", name, str(out)]
            environment = ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
            done = subprocess.run(command, env=environment, stdout=sys.stderr)
            if done.returncode == 0 and out.exists():
                section = Section(**json.loads(out.read_text()))
            else:
                section = Section(name, "This trial broke.", (), failed=[f"the trial ended with {done.returncode}"])
            seconds = time.perf_counter() - began
            found[name] = {"section": asdict(section), "seconds": seconds, "day": f"{datetime.now(UTC):%Y-%m-%d}",
                           "commit": commit}  # fmt: skip
            print(f"    {seconds:.0f} s, {len(section.failed)} failed", file=sys.stderr, flush=True)
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def cell(value: object) -> str:
    """A value in a table; what looks like HTML is text."""
    text = f"{value:,}" if isinstance(value, int) else str(value)
    for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("\n", " ")):
        text = text.replace(old, new)
    return text


def written(found: dict[str, dict[str, Any]]) -> str:
    """The page of what `collect` found."""
    from qalib.utils import machine

    sections = [(Section(**kept["section"]), kept) for kept in found.values()]
    failed = sum(len(section.failed) for section, _ in sections)
    lines = [
        "# Reliability", "",
        "What was tried to break qalib, how often, and what came of it. Written by `make reliability`; every figure "
        "was computed in the run that stands below its table, and `make test` runs a short form of each trial.", "",
        f"**{f'{failed} expectations failed' if failed else 'Every expectation held'}** in {len(sections)} trials, "
        f"{sum(kept['seconds'] for _, kept in sections) / 60:.0f} minutes.", "",
        "; ".join(f"{key}: {value}" for key, value in machine.specs().items()) + ".", "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in machine.versions().items()) + ".", "",
    ]  # fmt: skip
    for section, kept in sections:
        lines += [f"## {section.title}", "", cell(section.about), ""]
        if section.rows:
            lines += [f"| {' | '.join(section.columns)} |", f"|{' --- |' * len(section.columns)}"]
            lines += [f"| {' | '.join(map(cell, row))} |" for row in section.rows] + [""]
        lines += [f"- {note}" for note in section.notes] + ([""] if section.notes else [])
        lines += [f"- **failed**: {cell(what[:600])}" for what in section.failed] + ([""] if section.failed else [])
        lines += [f"Took {kept['seconds']:.0f} s on {kept['day']}, at commit {kept['commit']}.", ""]
    return "\n".join(lines)


def main() -> int:
    """The entry point."""
    if sys.argv[1] == "--one":
        run(sys.argv[2], Path(sys.argv[3]))
        return 0
    from qalib.utils.files import read_json, write_json, write_text

    out, names = Path(sys.argv[1]), sys.argv[2:] or list(TRIALS)
    beside = out.with_suffix(".json")
    found = (read_json(beside) if sys.argv[2:] and beside.exists() else {}) | collect(names)
    found = {name: found[name] for name in TRIALS if name in found}
    write_json(beside, found)
    write_text(out, written(found))
    return int(any(kept["section"]["failed"] for kept in found.values()))


if __name__ == "__main__":
    sys.exit(main())
