"""The schedule of a pruning run: threshold, density and learning rates over its progress, and steering by them."""

import math
from dataclasses import dataclass

from qalib.pruning.movement import Pruner, cut_for
from qalib.utils.errors import InputError

GAIN, STRONGEST = 100.0, 10.0  # how fast, and how far up and down, the regulariser's weight is steered


@dataclass(frozen=True)
class Schedule:
    """When what is pruned. `warmup`, `rise` and `settle` are points of the run, 0 its begin and 1 its end.

    Until `warmup` everything is kept. Until `rise` the threshold grows from 0 to `threshold` along a cubic curve
    (arXiv 2005.07683, section 4.2), and the density that the run is steered to falls from 1 to `density` along the same
    curve. Until `settle` both are flat, and the scores come to rest. From there on the mask is fixed, and the kept
    weights are trained. The real density is within `margin` of the steered one, which narrows to 0 at `settle`.
    """

    density: float
    threshold: float = 0.1
    warmup: float = 0.05
    rise: float = 0.4
    settle: float = 0.55
    margin: float = 0.03

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise InputError(f"density {self.density:g}: must be above 0 and at most 1")
        if not 0 <= self.warmup <= self.rise <= self.settle <= 1:
            raise InputError(f"schedule {self.warmup:g}, {self.rise:g}, {self.settle:g}: must ascend between 0 and 1")

    def risen(self, progress: float) -> float:
        """How far the cubic curve has risen, 0 to 1."""
        return 1 - (1 - _between(progress, self.warmup, self.rise)) ** 3

    def threshold_at(self, progress: float) -> float:
        """The published threshold for sigmoid(score)."""
        return self.threshold * self.risen(progress)

    def density_at(self, progress: float) -> float:
        """The density that the run is steered to."""
        return 1 - (1 - self.density) * self.risen(progress)

    def margin_at(self, progress: float) -> float:
        """How far from `density_at` the density may be."""
        return self.margin * (1 - _between(progress, self.rise, self.settle))

    def score_rate_at(self, progress: float) -> float:
        """Factor on the learning rate of the scores."""
        return 1 - _between(progress, self.rise, self.settle)

    def weight_rate_at(self, progress: float) -> float:
        """Factor on the learning rate of the weights: up until `warmup`, from `settle` on down to 0, both linear."""
        return _between(progress, 0, self.warmup) * (1 - _between(progress, self.settle, 1))


def _between(progress: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (progress - start) / (end - start))) if end > start else float(progress >= end)


def steer(pruner: Pruner, schedule: Schedule, progress: float, advanced: float, weight: float) -> None:
    """Set the pruner's cut and penalty for a step at `progress`, `advanced` further than the step before.

    The cut is the published threshold where that gives a density within the schedule's margin, else the nearest that
    does. The regulariser's weight, `weight` times the threshold's rise, is steered: it grows while the threshold by
    itself would keep too much, and shrinks while it would keep too little, at most STRONGEST times either way.
    """
    scores, weights = pruner.flat()
    pruner.penalty = 0.0
    if pruner.fixed:
        return
    if progress >= schedule.settle:
        pruner.cut(cut_for(scores, weights, schedule.density))
    elif progress <= schedule.warmup:
        pruner.cut(-math.inf)
    else:
        threshold, density = schedule.threshold_at(progress), schedule.density_at(progress)
        published = math.log(threshold / (1 - threshold))
        surplus = (weights[scores > published].sum() / weights.sum()).item() - density
        pruner.pressure += GAIN * advanced * surplus
        pruner.pressure.clamp_(-math.log(STRONGEST), math.log(STRONGEST))
        pruner.penalty = weight * schedule.risen(progress) * pruner.pressure.exp().item()
        margin = schedule.margin_at(progress)
        low, high = (cut_for(scores, weights, density + side * margin) for side in (1, -1))
        pruner.cut(min(max(published, low), high))
