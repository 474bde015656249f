"""Fine-tuning: an encoder learns to answer questions, with all its weights; what comes of it can be pruned."""

from dataclasses import dataclass, fields
from pathlib import Path

from qalib.pruning.config import PruningConfig


@dataclass(frozen=True)
class FinetuningConfig:
    """Settings of a fine-tuning run; those of the same name in PruningConfig are the same."""

    base: str
    """Encoder to start from, with an answer layer or without: a folder or a hub id."""

    data: str
    """Training questions: a SQuAD v1.1 or v2.0 file, 'sample', or 'squad' or 'squad_v2' (the hub's)."""

    out: Path
    """The folder to write; it must be empty or not exist."""

    eval_data: str | None = None
    """Questions to score each checkpoint with; EM and F1 go to the log."""

    epochs: float = 2.0
    """Passes over the data."""

    max_hours: float | None = None
    """Stop after so many hours at the latest; the schedule then follows the clock."""

    resume: bool = False
    """Resume from the last checkpoint of the run, or start if there is none."""

    questions: int | None = None
    """Use only the first N questions."""

    eval_questions: int | None = None
    """Score with the first N questions only."""

    max_length: int | None = None
    """Leave out windows of more tokens than this; by default none."""

    batch: int = 16
    """Windows per batch and process."""

    accumulate: int = 1
    """Batches per step."""

    weight_lr: float = 5e-5
    """Largest learning rate."""

    beta2: float = 0.98
    """AdamW's decay of the squared gradients' mean."""

    dropout: float = 0.1
    """Probability of dropout of hidden states."""

    train_word_embeddings: bool = False
    """Train the word embeddings too."""

    warmup: float = 0.02
    """Point of the run, from 0 to 1, until which the learning rate rises."""

    decay_from: float = 0.6
    """Point from which it falls, to 0 at the end."""

    precision: str = "auto"
    """'fp32', 'bf16' (autocast) or 'auto': the faster of them by a short timing; a resumed run keeps its type."""

    save_minutes: float = 10.0
    """Minutes between checkpoints."""

    log_steps: int = 10
    """Steps between lines of the log."""

    seed: int = 0
    """Seed for a new answer layer, the order of windows and dropout."""

    work: Path | None = None
    """Folder for checkpoints and log, by default OUT.run; with several machines, one that all of them see."""

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
