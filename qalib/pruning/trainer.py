"""`transformers.Trainer` for a pruner.

Mixed precision, gradient accumulation, several processes (`accelerate launch`, `torchrun`), checkpoints and resuming
are the Trainer's. Loss, optimizer (two learning rates), their schedule and the order of windows are ours.
"""

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from qalib.pruning.config import PruningConfig
from qalib.pruning.controller import DensityController
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import Batch, HiddenStates, training_losses
from qalib.pruning.progress import Progress
from qalib.pruning.sampler import LengthGroupedSampler
from qalib.pruning.teacher import TeacherLogitsCache


class PruningTrainer(Trainer):
    """Trains a pruner as a controller steers it; `losses` are those of the last batch (see `training_losses`).

    Without a teacher, the student learns from the answers alone.
    """

    def __init__(
        self,
        controller: DensityController,
        teacher: TeacherLogitsCache | None,
        data: SquadDataset,
        config: PruningConfig,
        arguments: TrainingArguments,
        progress: Progress,
    ):
        super().__init__(controller.pruner, arguments, train_dataset=data, data_collator=data.collate)
        self.remove_callback(PrinterCallback)
        self.controller, self.pruner, self.teacher = controller, controller.pruner, teacher
        self.config, self.data, self.progress = config, data, progress
        self.losses: dict[str, Tensor] = {}

    @property
    def step_size(self) -> int:
        """Windows per step, over all processes."""
        return self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps

    def step_name(self, number: int) -> str:
        """A step by its number, from 1, and of how many, which a run by the clock does not know."""
        return f"step {number}" if self.config.max_hours else f"step {number} of {self.state.max_steps}"

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mixture of answers and teacher, and the regularization of the scores."""
        config = self.config
        self.losses = training_losses(
            model, self._ask_teacher, inputs, config.alpha, config.temperature, config.hidden_weight
        )
        return self.losses["loss"] + self.controller.regularization()

    def _ask_teacher(self, batch: Batch) -> Tensor | tuple[Tensor, HiddenStates]:
        assert self.teacher is not None  # the config requires one where its outputs have a weight
        if self.config.hidden_weight or batch["index"] not in self.teacher:
            self.progress.doing(f"{self.step_name(self.state.global_step + 1)}, the teacher's outputs")
        with self.accelerator.autocast():
            return self.teacher.outputs(batch) if self.config.hidden_weight else self.teacher(batch)

    def ask_teacher(self) -> None:
        """Have the teacher's logits of all windows before the first step; processes share the work."""
        assert self.teacher is not None  # as in `_ask_teacher`
        self.progress.say(f"the teacher's logits of {len(self.data)} windows")
        with self.accelerator.autocast():
            self.teacher.fill(self.args.device, self.args.process_index, self.args.world_size)
        self.accelerator.wait_for_everyone()

    def create_optimizer(self, model=None):
        """AdamW over two groups: weights, then scores."""
        scores = list(self.pruner.scores.parameters())
        weights = [p for p in self.pruner.model.parameters() if p.requires_grad]
        groups = [{"params": weights, "lr": self.config.weight_lr}, {"params": scores, "lr": self.config.score_lr}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, self.config.beta2), weight_decay=0.0, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Learning rates by the controller's progress, whether steps or the clock drive it."""
        schedule = self.controller.schedule
        factors = [
            lambda _, factor=factor: factor(self.controller.progress)
            for factor in (schedule.weight_lr_factor, schedule.score_lr_factor)
        ]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factors)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset=None):
        return LengthGroupedSampler(self.data.lengths, self.step_size, self.args.seed)
