"""What happens between the steps of a pruning run: steering the density, logging, drawing the bar, checkpoints."""

import math
import time
from typing import Any, cast

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from transformers import TrainerCallback

from qalib.pruning.run_folder import RunFolder
from qalib.pruning.trainer import PruningTrainer
from qalib.qa import evaluation
from qalib.qa.squad import QuestionSet

STATE_FILE = "controller.pt"  # of the controller, in a checkpoint


class PruningCallback(TrainerCallback):
    """Lets the controller prepare each step, writes log and bar after it, asks for checkpoints and completes them."""

    def __init__(
        self, trainer: PruningTrainer, folder: RunFolder, precision: str, tokenizer, eval_data: QuestionSet | None
    ):
        self.trainer, self.folder, self.precision = trainer, folder, precision
        self.tokenizer, self.eval_data = tokenizer, eval_data
        self.controller, self.pruner, self.progress = trainer.controller, trainer.pruner, trainer.progress
        self.is_main = trainer.is_world_process_zero()
        self.densities: dict[str, float] = {}  # those that stand in the log

    def on_train_begin(self, args, state, control, **kwargs):
        """Take up clock and log where the checkpoint left them."""
        self.begun = time.monotonic() - self.controller.seconds
        self.saved = self.controller.seconds
        if self.is_main:
            self.folder.truncate_log(state.global_step)
        self._steer(state)
        self.progress.begin(self.controller.progress)

    def on_step_begin(self, args, state, control, **kwargs):
        """Say which step it is."""
        self.progress.doing(self.trainer.step_name(state.global_step + 1))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Clip the gradient of the weights to norm 1."""
        # Not of the scores: the regularization's gradient would dominate the norm, and Adam rescales it anyway.
        nn.utils.clip_grad_norm_(self.trainer.optimizer.param_groups[0]["params"], 1.0)

    def on_step_end(self, args, state, control, **kwargs):
        """Prepare the next step, write the log, ask for a checkpoint when one is due, and end when time is up."""
        config, controller = self.trainer.config, self.controller
        self._steer(state)
        shown = {}
        if self.progress.wants_figures():
            shown = {"loss": f"{self.trainer.losses['loss'].item():.3f}", "density": f"{self.pruner.density():.3f}"}
        name = self.trainer.step_name(state.global_step)
        self.progress.step(name, controller.progress, self.trainer.step_size, **shown)
        if state.global_step % config.log_steps == 0:
            self._write(state, self._figures())
        over = controller.progress >= 1
        control.should_training_stop |= over
        if over or controller.seconds - self.saved >= 60 * config.save_minutes:
            control.should_save, self.saved = True, controller.seconds

    def on_save(self, args, state, control, **kwargs):
        """Score the checkpoint, all processes together, and complete it."""
        if self.eval_data:
            self.progress.say(f"scoring the checkpoint of step {state.global_step}")
            self.pruner.eval()
            with self.trainer.accelerator.autocast():
                score = evaluation.evaluate(self.pruner.model, self.tokenizer, self.eval_data, progress=False).score
            self.pruner.train()
            self._write(state, {"exact_match": score.exact_match, "f1": score.f1})
        if self.is_main:
            checkpoint = self.folder.path / f"checkpoint-{state.global_step}"
            torch.save(self.controller.state_dict(), checkpoint / STATE_FILE)
            # Last, so that a checkpoint without this file is one whose writing was interrupted.
            (checkpoint / "complete").touch()

    def _steer(self, state) -> None:
        seconds = time.monotonic() - self.begun
        if self.trainer.args.world_size > 1:  # the first process's clock counts
            there = torch.tensor(seconds, dtype=torch.float64, device=self.trainer.args.device)
            seconds = cast(Tensor, broadcast(there)).item()
        self.controller.seconds = seconds
        hours = self.trainer.config.max_hours
        by_clock = self.controller.seconds / (3600 * hours if hours else math.inf)
        self.controller.update(min(1.0, max(state.global_step / state.max_steps, by_clock)))

    def _figures(self) -> dict[str, Any]:
        controller = self.controller
        densities = {name: round(density, 4) for name, density in self.pruner.densities().items()}
        changed = {"densities": densities} if densities != self.densities else {}
        self.densities = densities
        return {
            **{name: round(self._mean(loss), 5) for name, loss in self.trainer.losses.items()},
            "density": round(self.pruner.density(), 5),
            "steered_density": round(controller.target_density(), 5),
            "threshold": round(torch.tensor(self.pruner.scores[0].threshold).sigmoid().item(), 5),
            "regulariser": round(controller.regularization_weight, 4),
            "weight_lr": self.trainer.optimizer.param_groups[0]["lr"],
        } | changed

    def _mean(self, loss: Tensor) -> float:
        return cast(Tensor, self.trainer.accelerator.reduce(loss.detach(), "mean")).item()

    def _write(self, state, figures: dict[str, Any]) -> None:
        if not self.is_main:
            return
        line = {
            "step": state.global_step,
            "windows": state.global_step * self.trainer.step_size,
            "seconds": round(self.controller.seconds, 1),
            "progress": round(self.controller.progress, 5),
            "precision": self.precision,
        }
        self.folder.append_to_log(line | figures)
