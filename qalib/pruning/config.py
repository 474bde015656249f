"""The settings of a pruning run: what they mean, their defaults, and the values they can take."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qalib.pruning.schedule import Schedule
from qalib.utils.errors import InputError

CHOICES = {
    "method": ("movement", "magnitude", "obs", "fixed-mask", "dense"),
    "ffn": ("block", "hybrid"),
    "precision": ("auto", "fp32", "bf16"),
}
ABOVE_ZERO = (
    "epochs", "max_hours", "questions", "eval_questions", "batch", "accumulate", "weight_lr", "temperature",
    "save_minutes", "log_steps", "max_length", "calibration_questions", "rounds",
)  # fmt: skip
EARLIER_WORDS = {"method": {"keep": "fixed-mask"}, "ffn": {"rows": "hybrid"}}  # in older files and command lines
EARLIER_KEYS = {"regularization_weight": "regulariser", "ramp_end": "rise", "freeze_at": "settle"}  # files keep them


@dataclass(frozen=True)
class PruningConfig:
    """Settings of a pruning run. Raises InputError for an impossible value."""

    teacher: str | None
    """Checkpoint that is distilled: a folder or a hub id."""

    data: str
    """Training questions: a SQuAD v1.1 or v2.0 file, 'sample', or 'squad' or 'squad_v2' (the hub's)."""

    out: Path
    """The folder to write; it must be empty or not exist."""

    student: str | None = None
    """Checkpoint to start from; by default the teacher."""

    eval_data: str | None = None
    """Questions to score each checkpoint with; EM and F1 go to the log."""

    density: float = 0.317
    """Kept / all weights of the encoder matrices, above 0 and at most 1; what is reached is at most a block
    below, or a neuron in a hybrid."""

    block: tuple[int, int] = (32, 32)
    """HEIGHTxWIDTH of a block, in weights."""

    ffn: str = "block"
    """'block', or 'hybrid' for blocks in attention and whole neurons in the FFN."""

    method: str = "movement"
    """'movement', 'magnitude' (the baseline: the smallest blocks go at once), 'obs' (one-shot, without training: remove
    in rounds what costs the loss least, and refit what stays), 'fixed-mask' (go on training what the student has left,
    whatever the density) or 'dense' (train all weights)."""

    epochs: float = 3.0
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

    weight_lr: float = 1e-4
    """Largest learning rate of the weights."""

    score_lr: float = 1e-2
    """Largest learning rate of the scores."""

    regularization_weight: float = 25.0
    """Weight of the scores' mean sigmoid in the loss, before it is steered."""

    alpha: float = 0.9
    """Share of distillation in the loss, from 0 to 1; the rest is cross-entropy with the answers."""

    temperature: float = 2.0
    """Temperature of distillation."""

    hidden_weight: float = 0.0
    """Weight in the loss of the hidden states' distance from the teacher's, layer by layer; the teacher then has the
    student's layers and width, and is asked at every step."""

    beta2: float = 0.999
    """AdamW's decay of the squared gradients' mean."""

    dropout: float = 0.0
    """Probability of dropout of the student's hidden states."""

    train_word_embeddings: bool = False
    """Train the word embeddings too."""

    warmup: float = 0.05
    """Point of the run, from 0 to 1, until which everything is kept."""

    ramp_end: float = 0.4
    """Point at which threshold and density reach their final values."""

    freeze_at: float = 0.55
    """Point from which the mask is fixed and only the kept weights are trained."""

    precision: str = "auto"
    """'fp32', 'bf16' (autocast) or 'auto': the faster of them by a short timing; a resumed run keeps its type."""

    save_minutes: float = 10.0
    """Minutes between checkpoints."""

    log_steps: int = 10
    """Steps between lines of the log."""

    seed: int = 0
    """Seed for the order of windows and for dropout."""

    calibration_questions: int = 2048
    """Method obs: questions to calibrate with, drawn at random from the data."""

    rounds: int = 16
    """Method obs: rounds of removing and refitting."""

    work: Path | None = None
    """Folder for checkpoints and log, by default OUT.run; with several machines, one that all of them see."""

    teacher_cache: Path | None = None
    """Folder for teachers' logits, shared between runs; by default ~/.cache/qalib/teachers."""

    def __post_init__(self) -> None:
        for name, words in EARLIER_WORDS.items():
            self._set(name, words.get(getattr(self, name), getattr(self, name)))
        for name in ("out", "work", "teacher_cache"):
            self._set(name, Path(value) if (value := getattr(self, name)) is not None else None)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        for name in ABOVE_ZERO:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InputError(f"{name} {value}: must be above 0")
        for name in ("alpha", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: must be between 0 and 1")
        if not 0 <= self.beta2 < 1:
            raise InputError(f"beta2 {self.beta2}: must be at least 0 and below 1")
        if self.teacher is None and (self.alpha or self.hidden_weight):
            raise InputError(f"alpha {self.alpha}, hidden_weight {self.hidden_weight}: must be 0 without a teacher")
        if not self.hidden_weight >= 0:
            raise InputError(f"hidden_weight {self.hidden_weight}: must be 0 or above")
        if self.method == "obs" and self.student is not None:
            raise InputError(f"method 'obs' prunes the teacher itself; student {self.student!r} must be left out")
        self.schedule()

    def schedule(self) -> Schedule:
        """The schedule that these settings ask for."""
        return Schedule(self.density, warmup=self.warmup, ramp_end=self.ramp_end, freeze_at=self.freeze_at)

    def to_dict(self) -> dict[str, Any]:
        """The settings as arguments.json keeps them: plain values, under the keys that earlier runs have."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        return {EARLIER_KEYS.get(name, name): value for name, value in plain.items()}

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the class is frozen
