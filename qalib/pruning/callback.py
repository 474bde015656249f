"""Steering: what happens between the steps of a pruning run: masks set, log and bar written, checkpoints asked for."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Trainer, TrainerCallback

from qalib.pruning import schedule
from qalib.qa import evaluation
from qalib.qa.squad import QuestionSet
from qalib.utils.files import write_text


class Steering(TrainerCallback):
    """Sets the masks before each step, and writes log, bar and checkpoints after it."""

    def __init__(
        self,
        trainer: Trainer,
        log: Path,
        max_hours: float | None,
        save_minutes: float,
        log_steps: int,
        bar: bool,
        tokenizer=None,
        dev: QuestionSet | None = None,
    ):
        self.trainer, self.pruner, self.log, self.log_steps = trainer, trainer.pruner, log, log_steps
        self.seconds, self.save_seconds = 3600 * max_hours if max_hours else math.inf, 60 * save_minutes
        self.main, self.tokenizer, self.dev = trainer.is_world_process_zero(), tokenizer, dev
        form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=100, desc="pruning", bar_format=form, disable=not (bar and self.main))

    def on_train_begin(self, args, state, control, **kwargs):
        """Take up clock and log where the checkpoint left them."""
        self.started = time.monotonic() - self.pruner.clock.item()
        self.saved = self.pruner.clock.item()
        if self.main:
            self._drop_lines_after(state.global_step)
        self._steer(state)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Clip the gradient of the weights to norm 1."""
        # Not of the scores: the regulariser's gradient would take the norm for itself, and Adam scales it anyway.
        nn.utils.clip_grad_norm_(self.trainer.optimizer.param_groups[0]["params"], 1.0)

    def on_step_end(self, args, state, control, **kwargs):
        """Prepare the next step, write the log, ask for a checkpoint when one is due, and end when time is up."""
        self._steer(state)
        if state.global_step % self.log_steps == 0:
            self._write(state, self._figures(state))
        over = self.trainer.progress >= 1
        control.should_training_stop |= over
        if over or self.pruner.clock.item() - self.saved >= self.save_seconds:
            control.should_save, self.saved = True, self.pruner.clock.item()

    def on_save(self, args, state, control, **kwargs):
        """Score the checkpoint and mark it as complete."""
        if not self.main:
            return
        if self.dev:
            self.pruner.eval()
            with self.trainer.compute_loss_context_manager():
                score = evaluation.evaluate(self.pruner.model, self.tokenizer, self.dev, progress=False).score
            self.pruner.train()
            self._write(state, {"exact_match": score.exact_match, "f1": score.f1})
        # Last, so that a checkpoint without this file is one whose writing was interrupted.
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()

    def on_train_end(self, args, state, control, **kwargs):
        """Leave the terminal tidy."""
        self.bar.close()

    def _drop_lines_after(self, step: int) -> None:
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
        write_text(self.log, "".join(line for line in whole if json.loads(line)["step"] <= step))

    def _steer(self, state) -> None:
        trainer, clock = self.trainer, self.pruner.clock
        clock.fill_(time.monotonic() - self.started)
        if trainer.args.world_size > 1:
            torch.distributed.broadcast(clock, 0)
        before = trainer.progress
        trainer.progress = min(1.0, max(state.global_step / state.max_steps, clock.item() / self.seconds))
        advanced = trainer.progress - before if before else 0.0
        schedule.steer(self.pruner, trainer.schedule, trainer.progress, advanced, trainer.recipe.regulariser)

    def _figures(self, state) -> dict[str, Any]:
        trainer, scores = self.trainer, self.pruner.scores[0]
        figures = {
            **{name: round(self._mean(part), 5) for name, part in trainer.parts.items()},
            "density": round(self.pruner.density(), 5),
            "steered_density": round(self._steered_density(), 5),
            "threshold": round(torch.tensor(scores.cut).sigmoid().item(), 5),
            "regulariser": round(self.pruner.penalty, 4),
            "weight_lr": trainer.optimizer.param_groups[0]["lr"],
            "densities": {name: round(density, 4) for name, density in self.pruner.densities().items()},
        }
        self.bar.set_postfix({name: figures[name] for name in ("loss", "density", "threshold")}, refresh=False)
        self.bar.update(round(100 * trainer.progress, 2) - self.bar.n)
        return figures

    def _steered_density(self) -> float:
        trainer = self.trainer
        return self.pruner.density() if self.pruner.fixed else trainer.schedule.density_at(trainer.progress)

    def _mean(self, part: Tensor) -> float:
        return self.trainer.accelerator.reduce(part.detach(), "mean").item()

    def _write(self, state, figures: dict[str, Any]) -> None:
        if not self.main:
            return
        line = {
            "step": state.global_step,
            "windows": state.global_step * self.trainer.step_size,
            "seconds": round(self.pruner.clock.item(), 1),
            "progress": round(self.trainer.progress, 5),
        }
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | figures) + "\n")
