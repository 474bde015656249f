"""All that is to be measured on a GPU, part by part (`make gpu`), into reports/benchmarks/NAME-OF-THE-GPU/.

checks      the tests with the marker `gpu`: every kernel and size against float64, runtimes against dense
kernels     the products of one layer: dense at full and at compact size, and panels in every size
twin        runtimes end to end on the structural twin of 0.32, whose blocks stand at random
real        the same on every kept block of 0.20 as published (masks_0.20.json)
evaluation  the whole evaluation of the bundled model

A part is a process of its own with a limit of time; its rows are kept one by one in PART.json, whatever comes after.
With `--device cpu` all of it is rehearsed, GPU runtimes too, and all that is written says so.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qalib import runtimes
from qalib.benchmark import latency
from qalib.benchmark.gpu_page import page
from qalib.model import bert, blocks, checkpoint, synthetic
from qalib.model.checkpoint import Checkpoint
from qalib.qa import evaluation
from qalib.runtimes import block_sparse_gpu, compact, panels, tuning
from qalib.utils import machine
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import read_json, write_json, write_text
from qalib.utils.paths import ROOT

LIMITS = {"checks": 300, "kernels": 240, "twin": 420, "real": 300, "evaluation": 300}  # seconds a part
REHEARSAL = "rehearsal on a CPU: no figure here says anything of a GPU"
CANDIDATES = (
    ("dense-compiled", "bf16"), ("compact", "bf16"), ("compact-graph", "bf16"), ("block-sparse", "bf16"),
    ("block-sparse-triton", "bf16"), ("torch-bsr", "bf16"), ("compact-graph", "fp32"), ("block-sparse", "fp32"),
    ("pytorch-block-sparse", "fp32"),
)  # fmt: skip
LAYER = 4  # whose products are timed
SHARED = Path(os.environ.get("QALIB_SHARED", ROOT.parent / "shared"))
DEV = SHARED / "squad" / "dev-v1.1.json"


@dataclass(frozen=True)
class Settings:
    """What is measured, on what. `models` are checkpoints that stand in for the twins, by part."""

    out: Path
    device: str = "cuda"
    masks: Path = SHARED / "reference" / "masks_0.20.json"
    data: str = str(DEV) if DEV.exists() else "sample"
    shapes: tuple[tuple[int, int], ...] = ((1, 384), (32, 384), (128, 384), (8, 384))
    tokens: tuple[int, ...] = (384, 3072, 12288, 49152)
    candidates: tuple[tuple[str, str], ...] = CANDIDATES
    evaluated: tuple[str, ...] = ("dense", "compact", "compact-graph", "block-sparse")
    questions: int | None = None
    models: tuple[tuple[str, str], ...] = ()


class Rows:
    """The rows of a part, kept in its file one by one."""

    def __init__(self, settings: Settings, part: str):
        self.path, self.rows = settings.out / f"{part}.json", []
        self.about = {"part": part, "rehearsal": REHEARSAL if settings.device == "cpu" else None}
        self.about |= {"machine": machine.specs(), "versions": machine.versions()}

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and print it."""
        self.rows.append(row)
        write_json(self.path, self.about | {"rows": self.rows})
        told = {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items() if v not in (None, "")}
        print(" ".join(f"{key}={value}" for key, value in told.items() if key != "round_seconds"), flush=True)


def checks(settings: Settings) -> None:
    """The tests with the marker `gpu`; what they say goes to checks.txt."""
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command = [*pytest, "-m", "gpu", str(ROOT / "tests" / "test_gpu.py")]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    write_text(settings.out / "checks.txt", ran.stdout)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", ran.stdout)}
    Rows(settings, "checks").add({"exit_code": ran.returncode} | counts)


def kernels(settings: Settings) -> None:
    """The products of layer LAYER of both twins at several numbers of tokens. Milliseconds; `error` says why none."""
    rows = Rows(settings, "kernels")
    for kind in ("twin", "real"):
        if missing(kind, settings):
            continue
        with model_of(kind, settings) as loaded:
            small = compact.build(loaded.model, torch.device(settings.device), torch.bfloat16, loaded.block)
            cut = _products(bert.layers(small))
            full = _products(bert.layers(loaded.model.to(settings.device, torch.bfloat16)))
            for product in cut:
                kept = blocks.mask(cut[product][0], loaded.block).float().mean().item()
                for tokens in settings.tokens:
                    about = {"kind": kind, "product": product, "tokens": tokens, "kept": kept}
                    for way, row in _timed(full[product], cut[product], loaded.block, tokens, settings):
                        rows.add(about | {"way": way} | row)


Product = tuple[torch.Tensor, torch.Tensor, bool]
"""Weight, bias, and whether GELU follows."""


def _timed(
    full: Product, cut: Product, block: blocks.Block, tokens: int, settings: Settings
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A product in every way: dense at full and at compact size, and panels in every size."""

    def timed(make: Callable[[], torch.nn.Module], weight: torch.Tensor) -> dict[str, Any]:
        x = torch.randn(tokens, weight.shape[1], device=settings.device, dtype=weight.dtype)
        return _tried(lambda: {"milliseconds": clock(settings)(make(), x)})

    yield "dense", timed(lambda: block_sparse_gpu.DenseLinear(*full), full[0])
    yield "compact", timed(lambda: block_sparse_gpu.DenseLinear(*cut), cut[0])
    weight, bias, gelu = cut
    for tile in panels.tiles(block, weight.dtype):
        yield f"panels {tile}", timed(partial(panels.PanelLinear, weight, bias, block, gelu, tile), weight)


def _products(layers: Sequence[torch.nn.Module]) -> dict[str, Product]:
    """The four products of layer LAYER, or the last."""
    layer = layers[min(LAYER, len(layers) - 1)]
    attention = layer.attention
    three = [getattr(attention.self, name) for name in ("query", "key", "value")]
    return {
        "query, key, value": (torch.cat([p.weight for p in three]), torch.cat([p.bias for p in three]), False),
        "attention output": (attention.output.dense.weight, attention.output.dense.bias, False),
        "FFN in": (layer.intermediate.dense.weight, layer.intermediate.dense.bias, True),
        "FFN out": (layer.output.dense.weight, layer.output.dense.bias, False),
    }


def clock(settings: Settings) -> Callable[[torch.nn.Module, torch.Tensor], float]:
    """Milliseconds of a layer on the device."""

    def on_cpu(layer: torch.nn.Module, x: torch.Tensor) -> float:
        began = time.perf_counter()
        layer(x)
        return 1e3 * (time.perf_counter() - began)

    return tuning.milliseconds if settings.device == "cuda" else on_cpu


def end_to_end(settings: Settings, part: str) -> None:
    """A forward pass under each candidate, in turn with dense of its type (rows as of `latency.compare`)."""
    rows = Rows(settings, part)
    with model_of(part, settings) as loaded:
        for batch, length in settings.shapes:
            seen: set[tuple[str, str]] = set()
            for name, dtype in settings.candidates:
                about = {"runtime": name, "dtype": dtype, "batch": batch, "length": length}
                began = time.perf_counter()
                try:
                    table = latency.compare(loaded, [name], [dtype], batch, length, settings.device, 7, progress=False)
                except Exception as error:  # of one candidate; the others are measured all the same
                    rows.add(about | {"error": one_line(error)})
                    continue
                for row in table.astype(object).where(table.notna(), None).to_dict("records"):
                    if (row["runtime"], row["dtype"]) not in seen:
                        seen.add((row["runtime"], row["dtype"]))
                        rows.add(row | {"seconds_in_all": time.perf_counter() - began})


def evaluate(settings: Settings) -> None:
    """The bundled model over the whole question set, under several runtimes: scores and seconds."""
    rows = Rows(settings, "evaluation")
    model = dict(settings.models).get("evaluation", "bundled")
    dtype = "bf16" if settings.device == "cuda" else "fp32"
    for name in settings.evaluated:

        def run(name: str = name) -> dict[str, Any]:
            about, found = evaluation.load_and_evaluate(
                model, settings.data, name, dtype, settings.device, settings.questions
            )
            return about | evaluation.summary(found)

        rows.add({"runtime": name} | _tried(run))


def _tried(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        with torch.inference_mode():
            return run()
    except Exception as error:
        return {"error": one_line(error)}


PARTS: dict[str, Callable[[Settings], None]] = {
    "checks": checks,
    "kernels": kernels,
    "twin": lambda settings: end_to_end(settings, "twin"),
    "real": lambda settings: end_to_end(settings, "real"),
    "evaluation": evaluate,
}


@contextmanager
def model_of(kind: str, settings: Settings) -> Iterator[Checkpoint]:
    """The checkpoint of a part."""
    if kind in dict(settings.models):
        yield checkpoint.load(dict(settings.models)[kind])
        return
    with tempfile.TemporaryDirectory() as folder:
        yield checkpoint.load(
            synthetic.make_twin(Path(folder) / kind, masks=settings.masks if kind == "real" else None)
        )


def missing(part: str, settings: Settings) -> str | None:
    """Why a part cannot be measured, or None."""
    if part == "real" and part not in dict(settings.models) and not settings.masks.exists():
        return f"{settings.masks}: no such file; name masks_0.20.json with --masks or QALIB_SHARED"
    return None


@contextmanager
def opened(settings: Settings) -> Iterator[None]:
    """In a rehearsal the GPU runtimes are open to the CPU, where graphs are stand-ins and panels have no kernel."""
    before = dict(runtimes.REGISTRY)
    if settings.device == "cpu":
        for name in ("compact-graph", "block-sparse-triton"):
            runtimes.REGISTRY[name] = replace(before[name], devices=("cpu",), unavailable_reason=lambda: None)
    try:
        yield
    finally:
        runtimes.REGISTRY.update(before)


def run_all(settings: Settings, parts: Sequence[str], limits: dict[str, float]) -> list[dict[str, Any]]:
    """Run parts as processes, one after another, each for so many seconds at most; returns how they ended."""
    ended = []
    for part in parts:
        words = [f"--{name}={getattr(settings, name)}" for name in ("device", "masks", "data")]
        command = [sys.executable, "-m", "qalib.benchmark.gpu", str(settings.out), "--part", part, *words]
        began = time.monotonic()
        if reason := missing(part, settings):
            how = f"not run: {reason}"
        else:
            how = _ended(command, limits[part])
        ended.append({"part": part, "how": how, "seconds": round(time.monotonic() - began, 1)})
        write_json(settings.out / "parts.json", ended)
        print(f"{part}: {how}", flush=True)
    return ended


def _ended(command: Sequence[str], limit: float) -> str:
    try:
        code = subprocess.run(command, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        return f"stopped at its limit of {limit:.0f} s; the rows until then are kept"
    return "done" if code == 0 else f"ended with exit code {code}; the rows until then are kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see above. Returns 1 if a part did not come to its end."""
    parser = argparse.ArgumentParser(prog="python -m qalib.benchmark.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder for the results, in one of its own by the GPU's name")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--masks", type=Path, default=Settings.masks, help="masks_0.20.json [QALIB_SHARED]")
    parser.add_argument("--data", default=Settings.data, help="questions to evaluate on [%(default)s]")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    settings = Settings(given.out, machine.device(given.device), given.masks, given.data)
    if given.part:
        with opened(settings):
            PARTS[given.part](settings)
        return 0
    name = "rehearsal" if settings.device == "cpu" else torch.cuda.get_device_name()
    settings = replace(settings, out=given.out / re.sub(r"\W+", "-", name.lower()).strip("-"))
    parts = given.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise InputError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    ended = run_all(settings, parts, LIMITS)
    found = {part: read_json(path) for part in parts if (path := settings.out / f"{part}.json").exists()}
    rehearsal = REHEARSAL if settings.device == "cpu" else None
    print(write_text(settings.out / "README.md", page(name, machine.specs(), ended, found, rehearsal)))
    return int(any(one["how"] != "done" for one in ended))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"qalib: {error}")
