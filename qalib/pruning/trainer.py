"""Pruning runs: `transformers.Trainer` around the method in `pruning.py`, the windows of `trainset.py` and a teacher.

Mixed precision, gradient accumulation, several processes (`accelerate launch`, `torchrun`), checkpoints and resuming
are the Trainer's. What is added: two losses, two learning rates, a schedule by steps or by the clock, and a log.
"""

import copy
import hashlib
import json
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import PartialState
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from qalib.model import bert, checkpoint
from qalib.model.blocks import Block
from qalib.pruning import movement, run_folder
from qalib.pruning.callback import Steering
from qalib.pruning.dataset import ByLength, TrainingWindows
from qalib.pruning.movement import Pruner
from qalib.pruning.schedule import Schedule
from qalib.pruning.teacher import Teacher
from qalib.qa import evaluation, squad
from qalib.qa.squad import QuestionSet
from qalib.qa.windows import MAX_LENGTH, OVERLAP
from qalib.runtimes import compact
from qalib.utils.errors import InputError
from qalib.utils.files import write_text

INHERITED = ("license", "base_model", "notice")  # by a model from the one that it was made of


@dataclass(frozen=True)
class Recipe:
    """Learning rates of weights and scores; the regulariser's weight; the share `alpha` of distillation in the loss."""

    weight_lr: float
    score_lr: float
    regulariser: float
    alpha: float
    temperature: float


class PruningTrainer(Trainer):
    """`transformers.Trainer` for a `Pruner`: loss and optimizer are replaced, nothing else.

    `progress` is the part of the run that is done, 0 to 1; `parts` are the last step's losses.
    """

    def __init__(
        self, pruner: Pruner, data: TrainingWindows, teacher: Teacher, schedule: Schedule, recipe: Recipe, **rest
    ):
        super().__init__(model=pruner, train_dataset=data, data_collator=data.batch, **rest)
        self.remove_callback(PrinterCallback)
        self.pruner, self.teacher, self.schedule, self.recipe = pruner, teacher, schedule, recipe
        self.progress, self.parts = 0.0, {}

    @property
    def step_size(self) -> int:
        """Windows a step, over all processes."""
        return self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """alpha * distillation + (1 - alpha) * cross-entropy + the penalty's weight * mean sigmoid of the scores."""
        positions, index = inputs.pop("positions"), inputs.pop("index")
        logits, alpha = model(**inputs), self.recipe.alpha
        self.parts = {"answer_loss": movement.answer_loss(logits, positions)}
        loss = (1 - alpha) * self.parts["answer_loss"]
        if alpha:
            with self.compute_loss_context_manager():
                teacher = self.teacher(index, inputs)
            self.parts["distillation_loss"] = movement.distillation(logits, teacher, self.recipe.temperature)
            loss = loss + alpha * self.parts["distillation_loss"]
        self.parts["loss"] = loss
        if self.pruner.penalty:
            loss = loss + self.pruner.penalty * self.pruner.regulariser()
        return (loss, logits) if return_outputs else loss

    def create_optimizer(self, model=None):
        """AdamW over two groups: weights, then scores."""
        scores = list(self.pruner.scores.parameters())
        weights = [p for p in self.pruner.model.parameters() if p.requires_grad]
        groups = [{"params": weights, "lr": self.recipe.weight_lr}, {"params": scores, "lr": self.recipe.score_lr}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Learning rates by `progress`, whether steps or the clock drive it."""
        rates = (self.schedule.weight_rate_at, self.schedule.score_rate_at)
        factors = [lambda _, rate=rate: rate(self.progress) for rate in rates]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factors)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset=None):
        return ByLength(self.train_dataset.lengths, self.step_size, self.args.seed)


def prune(
    teacher: str,
    student: str | None,
    data: str,
    out: Path | str,
    density: float = 0.317,
    block: Block = (32, 32),
    ffn: str = "block",
    method: str = "movement",
    epochs: float = 3.0,
    max_hours: float | None = None,
    resume: bool = False,
    seed: int = 0,
    questions: int | None = None,
    batch: int = 16,
    accumulate: int = 1,
    weight_lr: float = 1e-4,
    score_lr: float = 1e-2,
    regulariser: float = 25.0,
    alpha: float = 0.9,
    temperature: float = 2.0,
    dropout: float = 0.0,
    train_word_embeddings: bool = False,
    warmup: float = 0.05,
    rise: float = 0.4,
    settle: float = 0.55,
    precision: str = "bf16",
    work: Path | str | None = None,
    eval_data: str | None = None,
    eval_questions: int | None = None,
    save_minutes: float = 10.0,
    log_steps: int = 10,
    bar: bool = True,
) -> Path:
    """Prune a model to a density while it learns from data and a teacher; returns `out`, a folder in the packed form.

    Args:
        teacher: Checkpoint whose logits are distilled (anything that `checkpoint.load` takes).
        student: Checkpoint to start from; None for the teacher's own weights.
        data: Training questions: a SQuAD v1.1 file, or `squad`. `questions` takes the first so many.
        out: Folder to write: weights, config, tokenizer, model_meta.json with all that made them, and log.jsonl.
        density: Kept / all weights of the encoder matrices, above 0 and at most 1. Reached to the block, from below.
        block: Height and width of a block, in weights.
        ffn: `block`, or `rows` for whole FFN neurons (see `pruning.Pruner`).
        method: `movement`; `magnitude`, the baseline: at once the blocks with the smallest root mean square go; `keep`:
            what is zero in the student stays so, whatever `density` is, and the kept weights train on.
        epochs: Length of the run in passes over the data; `max_hours` ends it sooner, with the schedule by the clock.
        resume: Go on from the last checkpoint in `work`; from the start if there is none.
        batch: Windows a step and process; a step takes `accumulate` of them.
        weight_lr, score_lr: Largest learning rates.
        regulariser: Weight of the mean sigmoid of the scores, before steering.
        alpha, temperature: Share of distillation in the loss, the rest being cross-entropy; its temperature.
        dropout: Probability, in the student.
        warmup, rise, settle: See `schedule.Schedule`.
        precision: `bf16` (autocast) or `fp32`.
        work: Folder for log, checkpoints and the teacher's logits; `<out>.run` by default.
        eval_data, eval_questions: Questions to score each checkpoint with; EM and F1 go to the log.
        save_minutes, log_steps: Time between checkpoints, steps between lines of the log.

    Raises InputError for an argument, file or answer that cannot be used.
    """
    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    schedule = Schedule(density, warmup=warmup, rise=rise, settle=settle)
    recipe = Recipe(weight_lr, score_lr, regulariser, alpha, temperature)
    out, work, on_cpu = Path(out), Path(work or f"{out}.run"), not torch.cuda.is_available()
    joins = not torch.distributed.is_initialized()
    PartialState(cpu=on_cpu)  # joins the other processes, if there are any
    run_folder.check(arguments, out)
    lock = run_folder.start(work, arguments, resume)
    tutor, pupil = checkpoint.load(teacher), checkpoint.load(student or teacher)
    if tutor.tokenizer.get_vocab() != pupil.tokenizer.get_vocab():
        raise InputError(f"{teacher}, {student}: teacher and student do not share a vocabulary")
    asked = squad.load(data, "train").first(questions)
    dev = squad.load(eval_data).first(eval_questions) if eval_data else None
    torch.set_flush_denormal(True)
    transformers.set_seed(seed)
    for model, probability in ((tutor.model, 0.0), (pupil.model, dropout)):
        _prepare(model, probability)
    pupil.model.bert.embeddings.word_embeddings.weight.requires_grad_(train_word_embeddings)
    pruner = _pruner(pupil.model, block, ffn, method, density)
    train = TrainingWindows(asked.questions, pupil.tokenizer)
    key = hashlib.sha256(json.dumps([tutor.sha256, asked.sha256, len(asked), len(train), MAX_LENGTH, OVERLAP]).encode())
    trainer = PruningTrainer(
        pruner, train, Teacher(tutor.model, len(train), work, key.hexdigest()[:16]), schedule, recipe,
        args=TrainingArguments(
            str(work), num_train_epochs=epochs,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
            seed=seed, bf16=precision == "bf16", use_cpu=on_cpu, dataloader_pin_memory=not on_cpu, max_grad_norm=0.0,
            save_strategy="no", save_total_limit=2, logging_strategy="no", report_to="none", disable_tqdm=True,
            remove_unused_columns=False, ddp_find_unused_parameters=False,
        ),
    )  # fmt: skip
    trainer.add_callback(
        Steering(trainer, work / "log.jsonl", max_hours, save_minutes, log_steps, bar, pupil.tokenizer, dev)
    )
    trainer.train(resume_from_checkpoint=run_folder.last_checkpoint(work) if resume else None)
    if not pruner.fixed:
        pruner.cut(movement.cut_for(*pruner.flat(), density))
    if trainer.is_world_process_zero():
        earlier = pupil.meta if method == "keep" else {}
        meta = {name: pupil.meta[name] for name in INHERITED if name in pupil.meta} | {
            "method": earlier.get("method", method),
            "arguments": {name: run_folder.recorded(name, value) for name, value in arguments.items()},
            "schedule": asdict(schedule),
            "teacher": {"name": tutor.name, "sha256": tutor.sha256},
            "student": {"name": pupil.name, "sha256": pupil.sha256} | ({"made_by": pupil.meta} if pupil.meta else {}),
            "data": {"name": asked.description, "sha256": asked.sha256, "questions": len(asked), "windows": len(train)},
            "density": pruner.density(),
            "steps": trainer.state.global_step,
            "windows_seen": trainer.state.global_step * trainer.step_size + earlier.get("windows_seen", 0),
            "training_seconds": round(pruner.clock.item() + earlier.get("training_seconds", 0), 1),
            "processes": trainer.args.world_size,
            "device": "cpu" if on_cpu else torch.cuda.get_device_name(),
            "versions": {"python": platform.python_version()}
            | {module.__name__: module.__version__ for module in (torch, transformers, accelerate)},
        }
        finished = replace(pupil, model=_finished(pruner, pupil.model, block), block=block, meta=meta)
        if dev:
            about = {"name": dev.description, "sha256": dev.sha256, "questions": len(dev)}
            meta["scores"] = {"data": about} | {
                name: _score(one.model, pupil.tokenizer, dev) for name, one in (("teacher", tutor), ("model", finished))
            }
        finished.model.cpu()
        checkpoint.save_packed(finished, out)
        write_text(out / "log.jsonl", run_folder.log(work, pupil.folder if earlier else None))
    lock.release()
    if joins and PartialState().num_processes > 1:
        # Together, and in order: a process that ends while another still talks to it is killed by its own threads.
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
    return out


def _pruner(model: nn.Module, block: Block, ffn: str, method: str, density: float) -> Pruner:
    """The pruner of a method. One that keeps the zeros trains the model cut to size, which is faster."""
    if method == "keep":
        sizes = [matrix.linear.weight.numel() for matrix in bert.matrices(model)]
        small = compact.cut(copy.deepcopy(model), block)
        pruner = Pruner(small, block, sizes=sizes)
        pruner.fix_as_is()
        return pruner
    pruner = Pruner(model, block, ffn)
    if method == "magnitude":
        pruner.fix_by_magnitude(density)
    return pruner


def _finished(pruner: Pruner, model: nn.Module, block: Block) -> nn.Module:
    """The pruner's model, grown to the student's size if it was cut."""
    made = pruner.bake()
    return made if made is model else compact.grow(made.cpu(), model.cpu(), block).eval()


def _score(model: nn.Module, tokenizer, dev: QuestionSet) -> dict[str, float]:
    score = evaluation.evaluate(model.eval(), tokenizer, dev, progress=False).score
    return {"exact_match": score.exact_match, "f1": score.f1}


def _prepare(model: nn.Module, dropout: float) -> None:
    """Set what makes training fast, and changes no result but by rounding."""
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")  # on a CPU the fused kind is slower, backwards most of all
    model.bert.embeddings.register_forward_hook(_lower_precision)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def _lower_precision(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Under autocast keep sums and norms in its type as well: going to float32 and back costs a third of the time."""
    kind = output.device.type
    return output.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else output
