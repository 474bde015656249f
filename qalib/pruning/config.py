"""The settings of a training run: what they mean, their defaults, and the values they can take."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from annotated_doc import Doc

from qalib.pruning.schedule import Schedule
from qalib.utils.errors import InputError

CHOICES = {
    "method": ("movement", "magnitude", "obs", "fixed-mask", "dense"),
    "ffn": ("block", "hybrid"),
    "precision": ("auto", "fp32", "bf16"),
}
ABOVE_ZERO = (
    "epochs", "max_hours", "questions", "eval_questions", "batch", "accumulate", "weight_lr", "temperature",
    "save_minutes", "log_steps", "max_length", "calibration_questions", "rounds", "speedup",
)  # fmt: skip
EARLIER_WORDS = {"method": {"keep": "fixed-mask"}, "ffn": {"rows": "hybrid"}}  # in older files and command lines
EARLIER_KEYS = {"regularization_weight": "regulariser", "ramp_end": "rise", "freeze_at": "settle"}  # files keep them


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings that pruning and fine-tuning share."""

    data: Annotated[
        str,
        Doc("Training questions: a SQuAD v1.1 or v2.0 file, 'sample', or 'squad' or 'squad_v2' (the hub's)."),
    ]
    out: Annotated[Path, Doc("The folder to write; it must be empty or not exist.")]
    eval_data: Annotated[str | None, Doc("Questions to score each checkpoint with; EM and F1 go to the log.")] = None
    max_hours: Annotated[
        float | None,
        Doc("Stop after at most this many hours; the schedule then follows the clock."),
    ] = None
    resume: Annotated[bool, Doc("Resume from the last checkpoint of the run, or start if there is none.")] = False
    questions: Annotated[int | None, Doc("Use only the first N questions.")] = None
    eval_questions: Annotated[int | None, Doc("Score with the first N questions only.")] = None
    max_length: Annotated[int | None, Doc("Leave out windows of more tokens than this; by default none.")] = None
    batch: Annotated[int, Doc("Windows per batch and process.")] = 16
    accumulate: Annotated[int, Doc("Batches per step.")] = 1
    train_word_embeddings: Annotated[bool, Doc("Train the word embeddings too.")] = False
    precision: Annotated[
        str,
        Doc("'fp32', 'bf16' (autocast) or 'auto': the faster of them by a short timing; a resumed run keeps its type."),
    ] = "auto"
    save_minutes: Annotated[float, Doc("Minutes between checkpoints.")] = 10.0
    log_steps: Annotated[int, Doc("Steps between lines of the log.")] = 10
    work: Annotated[
        Path | None,
        Doc("Folder for checkpoints and log, by default OUT.run; with several machines, one that all of them see."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PruningConfig(TrainingConfig):
    """Settings of a pruning run. Raises InputError for an impossible value."""

    teacher: Annotated[str | None, Doc("Checkpoint to distil from: a folder or a hub id.")]
    student: Annotated[str | None, Doc("Checkpoint to start from; by default the teacher.")] = None
    density: Annotated[
        float,
        Doc(
            "Kept / all weights of the encoder matrices, above 0 and at most 1; what is reached is at most a block "
            "below, or a neuron in a hybrid."
        ),
    ] = 0.317
    speedup: Annotated[
        float | None,
        Doc(
            "Method obs: instead of a density, the speedup over the dense model to reach, measured on this machine's "
            "CPU after each round."
        ),
    ] = None
    block: Annotated[tuple[int, int], Doc("HEIGHTxWIDTH of a block, in weights.")] = (32, 32)
    ffn: Annotated[str, Doc("'block', or 'hybrid' for blocks in attention and whole neurons in the FFN.")] = "block"
    method: Annotated[
        str,
        Doc(
            "'movement', 'magnitude' (the baseline: the smallest blocks go at once), 'obs' (one-shot, without "
            "training: remove in rounds what costs the loss least, and refit what stays), 'fixed-mask' (continue "
            "training what the student has left, whatever the density) or 'dense' (train all weights)."
        ),
    ] = "movement"
    epochs: Annotated[float, Doc("Passes over the data.")] = 3.0
    weight_lr: Annotated[float, Doc("Largest learning rate of the weights.")] = 1e-4
    score_lr: Annotated[float, Doc("Largest learning rate of the scores.")] = 1e-2
    regularization_weight: Annotated[
        float,
        Doc("Weight of the scores' mean sigmoid in the loss, before it is steered."),
    ] = 25.0
    alpha: Annotated[
        float,
        Doc("Share of distillation in the loss, from 0 to 1; the rest is cross-entropy with the answers."),
    ] = 0.9
    temperature: Annotated[float, Doc("Temperature of distillation.")] = 2.0
    hidden_weight: Annotated[
        float,
        Doc(
            "Weight in the loss of the hidden states' distance from the teacher's, layer by layer; the teacher then "
            "has the student's layers and width, and runs at every step."
        ),
    ] = 0.0
    beta2: Annotated[float, Doc("AdamW's decay of the squared gradients' mean.")] = 0.999
    dropout: Annotated[float, Doc("Probability of dropout of the student's hidden states.")] = 0.0
    warmup: Annotated[float, Doc("Point of the run, from 0 to 1, until which everything is kept.")] = 0.05
    ramp_end: Annotated[float, Doc("Point at which threshold and density reach their final values.")] = 0.4
    freeze_at: Annotated[float, Doc("Point from which the mask is fixed and only the kept weights are trained.")] = 0.55
    seed: Annotated[int, Doc("Seed for the order of windows and for dropout.")] = 0
    calibration_questions: Annotated[
        int,
        Doc("Method obs: questions to calibrate with, drawn at random from the data."),
    ] = 256
    rounds: Annotated[int, Doc("Method obs: rounds of removing and refitting.")] = 16
    teacher_cache: Annotated[
        Path | None,
        Doc("Folder for teachers' logits, shared between runs; by default ~/.cache/qalib/teachers."),
    ] = None

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
        if self.method == "obs" and self.teacher is None:
            raise InputError("method 'obs' prunes the teacher: name one")
        if self.method == "obs" and self.student is not None:
            raise InputError(f"method 'obs' prunes the teacher itself; student {self.student!r} must be left out")
        if self.method != "obs" and self.speedup is not None:
            raise InputError(f"speedup {self.speedup:g}: only method 'obs' prunes to a speedup, not {self.method!r}")
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
