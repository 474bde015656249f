"""Fine-tuning: an encoder learns to answer questions, with all its weights; what comes of it can be pruned."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from qalib.pruning.config import PruningConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(TrainingConfig):
    """Settings of a fine-tuning run."""

    base: Annotated[str, Doc("Encoder to start from, with an answer layer or without: a folder or a hub id.")]
    epochs: Annotated[float, Doc("Passes over the data.")] = 2.0
    weight_lr: Annotated[float, Doc("Largest learning rate.")] = 5e-5
    beta2: Annotated[float, Doc("AdamW's decay of the squared gradients' mean.")] = 0.98
    dropout: Annotated[float, Doc("Probability of dropout of hidden states.")] = 0.1
    warmup: Annotated[float, Doc("Point of the run, from 0 to 1, until which the learning rate rises.")] = 0.02
    decay_from: Annotated[float, Doc("Point from which it falls, to 0 at the end.")] = 0.6
    seed: Annotated[int, Doc("Seed for a new answer layer, the order of windows and dropout.")] = 0

    def to_pruning_config(self, block: tuple[int, int] = (32, 32)) -> PruningConfig:
        """The pruning run that keeps all weights and has no teacher. Raises InputError for an impossible value."""
        names = {field.name for field in fields(PruningConfig)} & {field.name for field in fields(self)}
        shared = {name: getattr(self, name) for name in names}
        points = {"ramp_end": self.decay_from, "freeze_at": self.decay_from}
        return PruningConfig(
            teacher=None, student=self.base, method="dense", block=block, alpha=0.0, **points, **shared
        )


def finetune(config: FinetuningConfig, progress: bool = True) -> Path:
    """Train an encoder on questions; returns `config.out`, as `run.prune` writes it, with all weights kept."""
    from qalib.model import encoders
    from qalib.pruning import run
    from qalib.pruning.progress import Progress

    config.to_pruning_config()  # fails before the model is loaded
    student, remark = encoders.load(config.base, config.seed)
    with Progress(progress) as bar:
        bar.note(f"{student.name}: {remark}")
    return run.prune(config.to_pruning_config(student.block), progress, student)
