"""The history of a pruned model, as its folder records it: the log of its run, and the runs that led to it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from qalib.pruning.config import EARLIER_WORDS
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, read_text

OWN = "this model"  # the run that made it
FURTHER = "movement, then trained further"  # method fixed-mask


def read_log(folder: Path | str) -> pd.DataFrame | None:
    """The log.jsonl of a pruning run, one row per line; None if the folder has none.

    Columns: step, windows, seconds, progress, loss, answer_loss, distillation_loss, hidden_loss, density,
    steered_density, threshold, regulariser, weight_lr, precision, densities (by matrix), and exact_match and f1 where
    a checkpoint was scored.
    """
    path = Path(folder) / "log.jsonl"
    if not path.exists():
        return None
    try:
        return pd.DataFrame([json.loads(line) for line in read_text(path).splitlines()])
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not a log of JSON lines ({error})") from None


def read_runs(folder: Path | str) -> pd.DataFrame | None:
    """The pruning runs recorded in a model's folder, one row each, by their own account; None if there are none.

    Reads `runs/*.json`, each the model_meta.json of a run with scores, and the model's own, whose run is OWN. Columns:
    run, method, density (%), windows (seen, including those of its student), exact_match, f1, and teacher_f1 over the
    same questions. A run at full density is called dense.
    """
    folder = Path(folder)
    metas = {path.stem: read_json(path) for path in sorted((folder / "runs").glob("*.json"))}
    if not metas:
        return None
    if (own := folder / "model_meta.json").exists() and {"arguments", "scores"} <= (meta := read_json(own)).keys():
        metas[OWN] = meta
    rows = [
        {
            "run": run,
            "method": _method(meta),
            "density": 100 * meta["density"],
            "windows": meta["windows_seen"],
            **meta["scores"]["model"],
            "teacher_f1": meta["scores"]["teacher"]["f1"],
        }
        for run, meta in metas.items()
    ]
    return pd.DataFrame(rows)


def _method(meta: dict[str, Any]) -> str:
    method: str = meta["arguments"]["method"]
    return "dense" if meta["density"] == 1 else EARLIER_WORDS["method"].get(method, method)


def run_name(method: str, windows: int) -> str:
    """A run in words, as figures and tables name it.

    >>> run_name("fixed-mask", 93664)
    'movement, then trained further, 94k windows'
    """
    return f"{FURTHER if method == 'fixed-mask' else method}, {windows / 1000:.0f}k windows"
