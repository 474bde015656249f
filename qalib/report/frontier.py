"""The frontier: F1 over density and over speed, of a model, of the runs that led to it, and of published models."""

import pandas as pd

from qalib.model import description
from qalib.model.checkpoint import Checkpoint
from qalib.report.plots.training import OWN, read_runs
from qalib.utils.paths import PUBLISHED_CHECKPOINTS, PUBLISHED_SPEEDS
from qalib.utils.quantity import Number

THIS, RUN = OWN, "run"


def frontier(checkpoint: Checkpoint, numbers: dict[str, Number]) -> pd.DataFrame:
    """One row per model: group, linear_density_percent, f1 (%, SQuAD v1.1 dev), speedup, hardware and source.

    `numbers` are those of the report so far. Groups are THIS, RUN with its method and windows, and published models by
    their names. A speedup is over dense BERT-base on the hardware stated: for THIS measured in this report
    (`bert_base_speedup`), for others as published. F1 of THIS and its runs is what their model_meta.json states.
    """
    known = {name: number.value for name, number in numbers.items()}
    ours = {
        "group": THIS,
        "linear_density_percent": known.get("linear_density_percent"),
        "f1": description.meta_fields(checkpoint)["stated_f1"],
        "speedup": known.get("bert_base_speedup"),
        "hardware": known.get("machine_cpu"),
        "source": "density and speed: this report; F1: its model_meta.json",
    }
    runs = read_runs(checkpoint.folder)
    rows = [ours] if runs is None else [ours, *map(_run, runs.query("run != @OWN").itertuples())]
    cards = pd.read_csv(PUBLISHED_CHECKPOINTS).query("base == 'bert-base-uncased'")
    cards = cards[["linear_density_percent", "f1", "speedup"]].assign(
        group="nn_pruning, BERT-base", hardware="RTX 3090", source="cards on the hub (published_checkpoints.csv)"
    )
    papers = pd.read_csv(PUBLISHED_SPEEDS).rename(columns={"model": "group"})
    return pd.concat([pd.DataFrame(rows), cards, papers], ignore_index=True)[list(ours)]


def _run(run) -> dict[str, object]:
    return {
        "group": f"{RUN}: {run.method}, {run.windows / 1000:.0f}k windows",
        "linear_density_percent": run.density,
        "f1": run.f1,
        "source": f"runs/{run.run}.json",
    }
