"""The frontier: F1 over density and over speed, of a model, of the runs that led to it, and of published models."""

from typing import cast

import pandas as pd

from qalib.model import description
from qalib.model.checkpoint import Checkpoint
from qalib.pruning.history import OWN, read_runs, run_name
from qalib.utils.paths import PUBLISHED_CHECKPOINTS, PUBLISHED_SPEEDS
from qalib.utils.quantity import Number, Value

THIS, RUN, DENSE = OWN, "run", "this model, zeros multiplied"


def frontier(checkpoint: Checkpoint, numbers: dict[str, Number]) -> pd.DataFrame:
    """One row per model: group, linear_density_percent, f1 (%, SQuAD v1.1 dev), speedup, hardware and source.

    `numbers` are those of the report so far. Groups are THIS, RUN with its method and windows, and published models by
    their names. A speedup is over dense BERT-base on the hardware stated: for THIS measured in this report
    (`bert_base_speedup`), for others as published. Runs at full density have the speed of this architecture run dense
    (`dense_bert_base_speedup`), measured here too; without such a run, DENSE is this model itself, run dense. F1 of
    THIS and its runs is what their model_meta.json states.
    """
    known = {name: number.value for name, number in numbers.items()}
    ours = {
        "group": THIS,
        "linear_density_percent": known.get("linear_density_percent"),
        "f1": description.training_record(checkpoint).stated_f1,
        "speedup": known.get("bert_base_speedup"),
        "hardware": known.get("machine_cpu"),
        "source": "density and speed: this report; F1: its model_meta.json",
    }
    dense = {"speedup": known.get("dense_bert_base_speedup"), "hardware": known.get("machine_cpu")}
    runs = read_runs(checkpoint.folder)
    rows = [ours] if runs is None else [ours, *(_run(run, dense) for run in runs.query("run != @OWN").itertuples())]
    if runs is None or not (runs.density == 100).any():
        rows.append(ours | dense | {"group": DENSE})
    cards = pd.read_csv(PUBLISHED_CHECKPOINTS).query("base == 'bert-base-uncased'")
    cards = cards[["linear_density_percent", "f1", "speedup"]].assign(
        group="nn_pruning, BERT-base", hardware="RTX 3090", source="cards on the hub (published_checkpoints.csv)"
    )
    papers = pd.read_csv(PUBLISHED_SPEEDS).rename(columns={"model": "group"})
    return pd.concat([pd.DataFrame(rows), cards, papers], ignore_index=True)[list(ours)]


def before_pruning(rows: pd.DataFrame) -> pd.Series | None:
    """The row of the best dense model of THIS architecture, or of THIS run dense; None if neither has an F1."""
    own = rows.group.str.startswith(f"{RUN}: dense") | (rows.group == DENSE)
    own &= rows.f1.notna()
    return cast(pd.Series, rows.loc[cast(int, rows.f1[own].idxmax())]) if own.any() else None


def _run(run, dense: dict[str, Value]) -> dict[str, Value]:
    return (dense if run.density == 100 else {}) | {
        "group": f"{RUN}: {run_name(run.method, run.windows)}",
        "linear_density_percent": run.density,
        "f1": run.f1,
        "source": f"runs/{run.run}.json",
    }
