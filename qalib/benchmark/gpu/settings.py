"""What is measured on a GPU, and the file that a part's rows are kept in."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qalib import runtimes
from qalib.model import checkpoint, synthetic
from qalib.model.checkpoint import Checkpoint
from qalib.utils import machine
from qalib.utils.errors import one_line
from qalib.utils.files import write_json
from qalib.utils.paths import BUNDLED, ROOT

REHEARSAL = "rehearsal on a CPU: no figure here says anything of a GPU"
CANDIDATES = (
    ("dense-compiled", "bf16"), ("compact", "bf16"), ("compact-graph", "bf16"), ("block-sparse", "bf16"),
    ("compact-graph", "fp32"), ("block-sparse", "fp32"), ("pytorch-block-sparse", "fp32"),
)  # fmt: skip
ON_THE_CARD = (  # the first is the card's way, the last the library that it names
    ("dense", "fp32"), ("dense", "bf16"), ("compact-graph", "fp32"), ("block-sparse", "fp32"),
    ("compact-graph", "bf16"), ("block-sparse", "bf16"), ("pytorch-block-sparse", "fp32"),
)  # fmt: skip
SHARED = Path(os.environ.get("QALIB_SHARED", ROOT.parent / "shared"))
DEV = SHARED / "squad" / "dev-v1.1.json"


@dataclass(frozen=True)
class Settings:
    """What is measured, on what. `models` are checkpoints that stand in for the twins, by part."""

    out: Path
    device: str = "cuda"
    masks: Path = SHARED / "reference" / "masks_0.20.json"
    data: str = str(DEV) if DEV.exists() else "sample"
    train_data: str = str(SHARED / "squad" / "train-v1.1.json")
    teacher: str = str(SHARED / "models" / "minilm-l6-squad-dense")
    minutes: float = 4.0  # a training run
    shapes: tuple[tuple[int, int], ...] = ((1, 384), (32, 384), (128, 384), (8, 384))
    tokens: tuple[int, ...] = (384, 3072, 12288, 49152)
    widths: tuple[int, ...] = (384, 768, 1024)  # of norms: MiniLM, BERT-base, BERT-large
    side: int = 8192  # of the square matrices that the card's ceiling is measured with
    candidates: tuple[tuple[str, str], ...] = CANDIDATES
    evaluated: tuple[str, ...] = ("dense", "compact", "compact-graph", "block-sparse")
    on_the_card: tuple[tuple[str, str], ...] = ON_THE_CARD
    questions: int | None = None
    training: tuple[tuple[str, Any], ...] = ()  # other settings of the runs, of `PruningConfig`
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


def tried(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a function returns, or the `error` that it raised: the other rows are measured all the same."""
    try:
        return run()
    except Exception as error:
        return {"error": one_line(error)}


@contextmanager
def model_of(kind: str, settings: Settings) -> Iterator[Checkpoint]:
    """The checkpoint of a part."""
    if kind in dict(settings.models):
        yield checkpoint.load(dict(settings.models)[kind])
        return
    with tempfile.TemporaryDirectory() as folder:
        masks = settings.masks if kind == "real" else None
        yield checkpoint.load(synthetic.make_twin(Path(folder) / kind, masks=masks, vocabulary=BUNDLED))


def missing(part: str, settings: Settings) -> str | None:
    """Why a part cannot be measured, or None."""
    if part == "real" and part not in dict(settings.models) and not settings.masks.exists():
        return f"{settings.masks}: no such file; name masks_0.20.json with --masks or QALIB_SHARED"
    if part == "training":
        for what, path in {"teacher": settings.teacher, "train-data": settings.train_data}.items():
            if not Path(path).exists():
                return f"{path}: not there; name it with --{what} or QALIB_SHARED"
    return None


@contextmanager
def opened(settings: Settings) -> Iterator[None]:
    """Open the runtime in CUDA graphs to the CPU during a rehearsal, where a stand-in replaces the graphs."""
    before = dict(runtimes.REGISTRY)
    if settings.device == "cpu":
        runtimes.REGISTRY["compact-graph"] = replace(before["compact-graph"], devices=("cpu",))
    try:
        yield
    finally:
        runtimes.REGISTRY.update(before)
