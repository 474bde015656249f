"""The controller of a pruning run: it holds the density to the schedule, by threshold and regularization."""

import math

from torch import Tensor

from qalib.pruning.movement import threshold_for_density
from qalib.pruning.pruner import Pruner
from qalib.pruning.schedule import Schedule

GAIN = 100.0  # growth of `log_gain` over a whole run, per surplus of density
MAX_LOG_GAIN = math.log(10)
STATE = ("progress", "seconds", "threshold", "regularization_weight", "log_gain")


class DensityController:
    """Sets threshold and regularization of a pruner, step by step; a resumed run continues from its state.

    The threshold on the scores is the published one where that gives a density within the schedule's margin, else the
    nearest that does. The regularization is `base_weight` times the schedule's ramp times exp(`log_gain`). That grows
    while the published threshold by itself would keep too much, and shrinks while it would keep too little.

    `progress` is how much of the run is done, 0 to 1, and `seconds` how long it has been training.
    """

    def __init__(self, pruner: Pruner, schedule: Schedule, base_weight: float = 25.0):
        self.pruner = pruner
        self.schedule = schedule
        self.base_weight = base_weight
        self.progress = 0.0
        self.seconds = 0.0
        self.threshold = -math.inf
        self.regularization_weight = 0.0
        self.log_gain = 0.0

    def update(self, progress: float) -> None:
        """Prepare the step at `progress`."""
        advanced, self.progress = progress - self.progress, progress
        if self.pruner.is_fixed:
            return
        schedule, (scores, weights) = self.schedule, self.pruner.flat_scores()
        self.regularization_weight = 0.0
        if progress >= schedule.freeze_at:
            self.threshold = self.pruner.keep(schedule.density)
            return
        if progress <= schedule.warmup:
            self.threshold = -math.inf
        else:
            probability, density = schedule.threshold_at(progress), schedule.density_at(progress)
            published = math.log(probability / (1 - probability)) if probability else -math.inf  # rounded to 0
            surplus = (weights[scores > published].sum() / weights.sum()).item() - density
            self.log_gain = min(max(self.log_gain + GAIN * advanced * surplus, -MAX_LOG_GAIN), MAX_LOG_GAIN)
            self.regularization_weight = self.base_weight * schedule.ramp(progress) * math.exp(self.log_gain)
            margin = schedule.margin_at(progress)
            low, high = (threshold_for_density(scores, weights, density + side * margin) for side in (1, -1))
            self.threshold = min(max(published, low), high)
        self.pruner.set_threshold(self.threshold)

    def target_density(self) -> float:
        """The density that is steered to; that of the mask where it is fixed."""
        return self.pruner.density() if self.pruner.is_fixed else self.schedule.density_at(self.progress)

    def regularization(self) -> Tensor | float:
        """The term of the loss that pulls all scores down."""
        return self.regularization_weight * self.pruner.mean_sigmoid() if self.regularization_weight else 0.0

    def state_dict(self) -> dict[str, float]:
        """What a resumed run continues from."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore a state, and with it the pruner's threshold."""
        for name in STATE:
            setattr(self, name, state[name])
        if not self.pruner.is_fixed:
            self.pruner.set_threshold(self.threshold)
