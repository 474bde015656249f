"""The command behind `make gpu`: parts as processes, one after another, and a page of what they found."""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qalib.benchmark import gpu
from qalib.benchmark.gpu import checks, evaluations, kernels, models, training
from qalib.benchmark.gpu.page import page
from qalib.benchmark.gpu.settings import REHEARSAL, Settings, missing, opened
from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json, write_text
from qalib.utils.output import escape_unencodable

PARTS: dict[str, Callable[[Settings], None]] = {
    "checks": checks.checks,
    "kernels": kernels.kernels,
    "twin": partial(models.end_to_end, part="twin"),
    "real": partial(models.end_to_end, part="real"),
    "evaluation": evaluations.evaluate,
    "card": evaluations.card,
    "training": training.train,
}
SECONDS = {"checks": 300, "kernels": 300, "twin": 420, "real": 300, "evaluation": 300, "card": 300}  # at most, a part
PASSED_ON = ("device", "masks", "data", "train_data", "teacher", "minutes")


def limits(settings: Settings) -> dict[str, float]:
    """Seconds that a part may take; training three minutes a run beyond its time, for windows and scores."""
    return SECONDS | {"training": 60 * len(training.RUNS) * (settings.minutes + 3)}


def run_all(settings: Settings, parts: Sequence[str], limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """Run parts as processes, one after another, each for so many seconds at most; returns how they ended."""
    ended = []
    for part in parts:
        words = [f"--{name.replace('_', '-')}={getattr(settings, name)}" for name in PASSED_ON]
        command = [sys.executable, "-m", "qalib.benchmark.gpu", str(settings.out), "--part", part, *words]
        began = time.monotonic()
        how = f"not run: {reason}" if (reason := missing(part, settings)) else outcome(command, limits[part])
        ended.append({"part": part, "how": how, "seconds": round(time.monotonic() - began, 1)})
        write_json(settings.out / "parts.json", ended)
        print(f"{part}: {how}", flush=True)
    return ended


def outcome(command: Sequence[str], limit: float) -> str:
    """Run a command for so many seconds at most; how it ended, in words."""
    try:
        code = subprocess.run(command, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        return f"stopped at its limit of {limit:.0f} s; the rows until then are kept"
    return "done" if code == 0 else f"ended with exit code {code}; the rows until then are kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the package. Returns 1 if a part did not come to its end."""
    about = str(gpu.__doc__).partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m qalib.benchmark.gpu", description=about)
    parser.add_argument("out", type=Path, help="the folder for the results, in one of its own by the GPU's name")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--masks", type=Path, default=Settings.masks, help="masks_0.20.json [QALIB_SHARED]")
    parser.add_argument("--data", default=Settings.data, help="questions to evaluate on [%(default)s]")
    parser.add_argument("--train-data", default=Settings.train_data, help="questions to train on [%(default)s]")
    parser.add_argument("--teacher", default=Settings.teacher, help="where training starts [%(default)s]")
    parser.add_argument("--minutes", type=float, default=Settings.minutes, help="a training run [%(default)s]")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas [%(default)s]")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    values: dict[str, Any] = {name: getattr(given, name) for name in PASSED_ON}
    values["device"] = machine.device(given.device)
    settings = Settings(given.out, **values)
    if given.part:
        with opened(settings):
            PARTS[given.part](settings)
        return 0
    name = "rehearsal" if settings.device == "cpu" else torch.cuda.get_device_name()
    settings = replace(settings, out=given.out / re.sub(r"\W+", "-", name.lower()).strip("-"))
    parts = given.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise InputError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    ended = run_all(settings, parts, limits(settings))
    found = {part: read_json(path) for part in parts if (path := settings.out / f"{part}.json").exists()}
    rehearsal = REHEARSAL if settings.device == "cpu" else None
    print(write_text(settings.out / "README.md", page(name, machine.specs(), ended, found, rehearsal)))
    return int(any(one["how"] != "done" for one in ended))


if __name__ == "__main__":
    escape_unencodable()
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"qalib: {error}")
