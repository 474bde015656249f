"""Training on a GPU: so many minutes of each kind of run, for windows a second and for the scores that they come to."""

import tempfile
from pathlib import Path
from typing import Any

from qalib.benchmark.gpu.settings import Rows, Settings, tried
from qalib.pruning import run
from qalib.pruning.config import PruningConfig
from qalib.utils.files import read_json

PRUNED = {"density": 0.317, "batch": 64, "weight_lr": 3e-4, "score_lr": 2e-2, "epochs": 20, "dropout": 0.1}
RUNS: dict[str, dict[str, Any]] = {
    "dense, without a teacher": {
        "method": "fixed-mask", "density": 1.0, "alpha": 0.0, "batch": 32, "weight_lr": 2e-4, "epochs": 3,
        "dropout": 0.1, "warmup": 0.06, "ramp_end": 0.06, "freeze_at": 0.07,
    },
    "movement": PRUNED | {"method": "movement"},
    "magnitude": PRUNED | {"method": "magnitude"},
}  # fmt: skip


def train(settings: Settings) -> None:
    """Each of RUNS from the dense teacher for `settings.minutes`, the schedule by the clock; then scored.

    Rows: run, method, density, precision, windows (seen), seconds (of training, evaluation not counted),
    windows_per_second, exact_match and f1 of the model, teacher_f1. The models are not kept.
    """
    rows = Rows(settings, "training")
    for name, values in RUNS.items():
        rows.add({"run": name, "batch": values["batch"]} | tried(lambda values=values: one(values, settings)))


def one(values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A run with some settings, and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "teacher": settings.teacher, "data": settings.train_data, "eval_data": settings.data,
            "questions": settings.questions, "eval_questions": settings.questions,
            "max_hours": settings.minutes / 60, "save_minutes": 1e6, "log_steps": 50, "out": Path(folder) / "model",
        }  # fmt: skip
        made = run.prune(PruningConfig(**given | values | dict(settings.training)), progress=False)
        meta = read_json(made / "model_meta.json")
    seconds = meta["training_seconds"]
    return {
        "method": meta["method"],
        "density": meta["density"],
        "precision": meta["precision"],
        "device": meta["device"],
        "windows": meta["windows_seen"],
        "seconds": seconds,
        "windows_per_second": meta["windows_seen"] / seconds if seconds else None,
        **meta["scores"]["model"],
        "teacher_f1": meta["scores"]["teacher"]["f1"],
    }
