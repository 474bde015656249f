"""A pruning run from settings to a finished model: build what takes part, train it, save what came of it."""

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import safe_open
from torch import Tensor, nn
from transformers import BertForQuestionAnswering, TrainingArguments

from qalib.model import bert, checkpoint, saving
from qalib.model.checkpoint import Checkpoint
from qalib.model.formats import SAFETENSORS
from qalib.pruning import attention, one_shot, record
from qalib.pruning.callback import STATE_FILE, PruningCallback
from qalib.pruning.config import EARLIER_KEYS, PruningConfig
from qalib.pruning.controller import DensityController
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.progress import Progress
from qalib.pruning.pruner import Pruner
from qalib.pruning.run_folder import RunFolder
from qalib.pruning.teacher import TeacherLogitsCache
from qalib.pruning.trainer import PruningTrainer
from qalib.qa import evaluation, squad
from qalib.qa.squad import QuestionSet
from qalib.runtimes import compact, dtypes
from qalib.utils import distributed, machine
from qalib.utils.errors import InputError
from qalib.utils.files import require_vacant, write_text
from qalib.utils.folders import require_writable


@dataclass
class PruningRun:
    """What takes part in a run. `precision` is its `dtype` for the log: `bf16 (emulated)` without instructions."""

    config: PruningConfig
    folder: RunFolder
    teacher: Checkpoint | None
    student: Checkpoint
    questions: QuestionSet
    eval_data: QuestionSet | None
    dtype: str
    precision: str
    trainer: PruningTrainer


def prune(config: PruningConfig, progress: bool = True, student: Checkpoint | None = None) -> Path:
    """Prune a model to a density while it learns from data and a teacher; returns `config.out`, in the packed form.

    `student` is the one that `config.student` names, if it is loaded already. The folder holds weights, config,
    tokenizer, model_meta.json with all that went into them, and log.jsonl. If several machines take part, all must see
    the work folder, where the first of them writes the checkpoints.
    Raises InputError for a file or answer that cannot be used, or a folder that is taken.
    """
    with distributed.joined(cpu=not torch.cuda.is_available()):
        return _prune(config, progress, student)


def _prune(config: PruningConfig, progress: bool, student: Checkpoint | None) -> Path:
    out, folder = config.out, RunFolder(config.work or Path(f"{config.out}.run"))
    require_vacant(out)
    require_writable(out)
    with folder.locked():
        if distributed.is_main_process():
            folder.check(config.to_dict(), config.resume)
        with Progress(progress and distributed.is_main_process()) as bar:
            if config.method == "obs":
                one_shot.prune(config, folder, bar)
            else:
                run = build(config, folder, bar, student)
                train(run)
                save(run)
    return out


def build(
    config: PruningConfig, folder: RunFolder, progress: Progress, student: Checkpoint | None = None
) -> PruningRun:
    """Load models and questions, and put together what trains them."""
    progress.say("loading teacher and student")
    teacher = checkpoint.load(config.teacher) if config.teacher is not None else None
    if student is None:
        if (source := config.student or config.teacher) is None:
            raise InputError("there is no model to prune: name a teacher or a student")
        student = checkpoint.load(source)
    if teacher and teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise InputError(f"{teacher.name}, {student.name}: teacher and student do not share a vocabulary")
    if config.hidden_weight and teacher:
        _require_same_layers(teacher, student)
    questions = squad.load(config.data, "train").first(config.questions)
    eval_data = squad.load(config.eval_data).first(config.eval_questions) if config.eval_data else None
    on_cpu = not torch.cuda.is_available()
    device = "cpu" if on_cpu else "cuda"
    dtype, remark = distributed.of_main_process(lambda: _choose_dtype(config, folder, device))
    transformers.set_seed(config.seed)
    for loaded, dropout in ((teacher, 0.0), (student, config.dropout)):
        if loaded:
            prepare(loaded.model, dropout)
    student.model.bert.embeddings.word_embeddings.weight.requires_grad_(config.train_word_embeddings)
    progress.say(f"cutting {len(questions)} questions into windows")
    data = SquadDataset(questions.questions, student.tokenizer, config.max_length)
    cache = teacher and TeacherLogitsCache(teacher.model, teacher.sha256, data, dtype, config.teacher_cache)
    controller = DensityController(pruner(student, config), config.schedule(), config.regularization_weight)
    arguments = TrainingArguments(
        str(folder.path), num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch, gradient_accumulation_steps=config.accumulate,
        seed=config.seed, bf16=dtype == "bf16", use_cpu=on_cpu, dataloader_pin_memory=not on_cpu, max_grad_norm=0.0,
        save_strategy="no", save_total_limit=2, logging_strategy="no", report_to="none", disable_tqdm=True,
        logging_nan_inf_filter=False, remove_unused_columns=False, ddp_find_unused_parameters=False,
    )  # fmt: skip
    trainer = PruningTrainer(controller, cache, data, config, arguments, progress)
    precision = f"{dtype} (emulated)" if dtypes.is_emulated(dtype, dtypes.TRAINING, device) else dtype
    trainer.add_callback(PruningCallback(trainer, folder, precision, student.tokenizer, eval_data))
    like = torch.empty(0, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32, device=trainer.args.device)
    products = " and ".join(sorted(trainer.pruner.instructions(like)))
    progress.note(f"training in {precision}; {remark}" + (f"; kept blocks by {products}" if products else ""))
    return PruningRun(config, folder, teacher, student, questions, eval_data, dtype, precision, trainer)


def _choose_dtype(config: PruningConfig, folder: RunFolder, device: str) -> tuple[str, str]:
    """The type to train in, for `auto` that in which a resumed run began, and a remark on its speed."""
    earlier = folder.dtype() if config.precision == "auto" else None
    dtype = dtypes.choose(earlier or config.precision, dtypes.TRAINING, device)
    return dtype, dtypes.remark(dtype, dtypes.TRAINING, device)


def train(run: PruningRun) -> None:
    """Train to the end, from the run's last checkpoint if it is resumed."""
    trainer, folder = run.trainer, run.folder
    if distributed.is_main_process():
        folder.start(run.config.to_dict(), run.dtype)
    PartialState().wait_for_everyone()
    if not all(gather_object([folder.started()])):  # or they would wait for each other for ever
        raise InputError(f"{folder.path}: not seen by every process; with several machines, --work must be shared")
    last = folder.last_checkpoint() if run.config.resume else None
    if last and not (last / STATE_FILE).exists():
        raise InputError(f"{last}: was written by an earlier version, which kept no {STATE_FILE}; start afresh")
    if last:
        _require_same_weights(last, trainer.pruner)
        trainer.controller.load_state_dict(torch.load(last / STATE_FILE, weights_only=True))
    if _asks_first(run):
        trainer.ask_teacher()
    machine.keep_freed_memory()
    torch.set_flush_denormal(True)  # computing with denormal numbers is slow
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        torch.set_flush_denormal(False)


def _require_same_weights(folder: Path, pruner: Pruner) -> None:
    """Raise InputError if a checkpoint has not the weights that the pruner has."""
    with safe_open(folder / SAFETENSORS, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    if shapes != {name: list(value.shape) for name, value in pruner.state_dict().items()}:
        raise InputError(
            f"{folder / SAFETENSORS}: must hold the weights of kept blocks only if the mask is fixed, but was written "
            "by an earlier version, or for another student; start afresh"
        )


def _asks_first(run: PruningRun) -> bool:
    """Whether the teacher comes before the first step: on a GPU, where it takes a minute and a step should hold nothing
    but the student, if all windows will be seen. On a CPU it takes hours, which a run by the clock may not have."""
    config, on_gpu = run.config, run.trainer.args.device.type == "cuda"
    wants_logits = config.alpha > 0 and not config.hidden_weight  # hidden states are not kept, and bring logits along
    return on_gpu and wants_logits and (config.epochs >= 1 or config.max_hours is not None)


def save(run: PruningRun) -> None:
    """Apply the masks at the density asked for, score the model if there are questions for it, and write it."""
    trainer, config, progress = run.trainer, run.config, run.trainer.progress
    trainer.controller.update(1.0)
    density = trainer.pruner.density()
    progress.say("applying the masks")
    finished = replace(run.student, model=_finished(trainer.pruner, run.student, config.block), block=config.block)
    finished.meta = _meta(run, density)
    if run.eval_data:  # all processes together
        about = {"name": run.eval_data.description, "sha256": run.eval_data.sha256, "questions": len(run.eval_data)}
        finished.meta["scores"] = {"data": about}
        for name, scored in (("teacher", run.teacher), ("model", finished)):
            if scored is None:
                continue
            progress.say(f"scoring the {name}")
            finished.meta["scores"][name] = _score(scored.model, run, run.eval_data)
    if distributed.is_main_process():
        progress.say("saving")
        finished.model.cpu()
        saving.save_packed(finished, config.out)
        before = run.student.folder if config.method == "fixed-mask" and run.student.meta else None
        write_text(config.out / "log.jsonl", run.folder.full_log(before))


def _meta(run: PruningRun, density: float) -> dict[str, Any]:
    """What model_meta.json says about the run; under a fixed mask, the student's own training is counted in."""
    config, trainer = run.config, run.trainer
    earlier = run.student.meta if config.method == "fixed-mask" else {}
    steps, seconds = trainer.state.global_step, trainer.controller.seconds
    meta = record.origin(config, run.teacher, run.student, run.questions, trainer.data)
    return meta | {
        "method": earlier.get("method", config.method),
        "schedule": {EARLIER_KEYS.get(name, name): value for name, value in asdict(config.schedule()).items()},
        "precision": run.precision,
        "density": density,
        "steps": steps,
        "windows_seen": steps * trainer.step_size + earlier.get("windows_seen", 0),
        "training_seconds": round(seconds + earlier.get("training_seconds", 0), 1),
        "processes": trainer.args.world_size,
    }


def pruner(student: Checkpoint, config: PruningConfig) -> Pruner:
    """The pruner for a method; with a fixed mask it trains the model cut to size, which is faster."""
    if config.method == "fixed-mask":
        sizes = [matrix.linear.weight.numel() for matrix in bert.matrices(student.model)]
        small = compact.shrink(copy.deepcopy(student.model), config.block)
        pruner = Pruner(small, config.block, dense_sizes=sizes)
        pruner.fix_nonzero()
        return pruner
    pruner = Pruner(student.model, config.block, config.ffn)
    if config.method in ("magnitude", "dense"):
        pruner.fix_largest(1.0 if config.method == "dense" else config.density)
    return pruner


def _finished(pruner: Pruner, student: Checkpoint, block: tuple[int, int]) -> nn.Module:
    """The pruner's model, grown to the student's size if it was cut."""
    made = pruner.apply_masks()
    return made if made is student.model else compact.expand(made.cpu(), student.model.cpu(), block).eval()


def _require_same_layers(teacher: Checkpoint, student: Checkpoint) -> None:
    """Raise InputError if the hidden states of teacher and student cannot be compared layer by layer."""
    layers, widths = (
        [getattr(c.model.config, name) for c in (teacher, student)] for name in ("num_hidden_layers", "hidden_size")
    )
    if layers[0] != layers[1] or widths[0] != widths[1]:
        shapes = [f"{count} layers of width {width}" for count, width in zip(layers, widths, strict=True)]
        raise InputError(
            f"hidden_weight: {teacher.name} has {shapes[0]}, {student.name} {shapes[1]}; they must be the same"
        )


def _score(model: nn.Module, run: PruningRun, questions: QuestionSet) -> dict[str, float | None]:
    model = model.to(run.trainer.args.device).eval()
    score = evaluation.evaluate(model, run.student.tokenizer, questions, progress=False).score
    return {"exact_match": score.exact_match, "f1": score.f1}


def prepare(model: BertForQuestionAnswering, dropout: float) -> None:
    """Set what makes training faster and changes results only by rounding."""
    if not torch.cuda.is_available():
        model.set_attn_implementation(attention.NAME)
        model.bert.embeddings.register_forward_hook(_lower_precision)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    for layer in bert.layers(model):  # of attention weights it would take a pass over the square of scores
        layer.attention.self.dropout.p = 0.0


def _lower_precision(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Under autocast, keep sums and norms in its type too: on a CPU float32 and back takes time, 5 % on a 2-core Zen 4.

    On a GPU it costs little, and norms in float32 lose less.
    """
    kind = output.device.type
    return output.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else output
