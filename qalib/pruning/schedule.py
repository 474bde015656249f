"""The schedule of a pruning run: threshold, density and learning rates over its progress."""

from dataclasses import dataclass

from qalib.utils.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """What is pruned when. `warmup`, `ramp_end` and `freeze_at` are points of the run, 0 its start and 1 its end.

    Until `warmup` everything is kept. Until `ramp_end` the threshold grows from 0 to `threshold` along a cubic curve
    (arXiv 2005.07683, section 4.2), and the density that the run is steered to falls from 1 to `density` along the same
    curve. Until `freeze_at` both are flat, and the scores come to rest. From there on the mask is fixed, and the kept
    weights are trained. The real density is within `margin` of the one steered to; it narrows to 0 at `freeze_at`.
    Raises InputError for an impossible density or points out of order.
    """

    density: float
    threshold: float = 0.1
    warmup: float = 0.05
    ramp_end: float = 0.4
    freeze_at: float = 0.55
    margin: float = 0.03

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise InputError(f"density {self.density:g}: must be above 0 and at most 1")
        if not 0 <= self.warmup <= self.ramp_end <= self.freeze_at <= 1:
            points = f"{self.warmup:g}, {self.ramp_end:g}, {self.freeze_at:g}"
            raise InputError(f"warmup, ramp_end, freeze_at {points}: must ascend between 0 and 1")

    def ramp(self, progress: float) -> float:
        """How far the cubic curve has risen, 0 to 1."""
        return 1 - (1 - _between(progress, self.warmup, self.ramp_end)) ** 3

    def threshold_at(self, progress: float) -> float:
        """The published threshold for sigmoid(score)."""
        return self.threshold * self.ramp(progress)

    def density_at(self, progress: float) -> float:
        """The density that the run is steered to."""
        return 1 - (1 - self.density) * self.ramp(progress)

    def margin_at(self, progress: float) -> float:
        """How far from `density_at` the density may be."""
        return self.margin * (1 - _between(progress, self.ramp_end, self.freeze_at))

    def score_lr_factor(self, progress: float) -> float:
        """Factor on the learning rate of the scores."""
        return 1 - _between(progress, self.ramp_end, self.freeze_at)

    def weight_lr_factor(self, progress: float) -> float:
        """Factor on the learning rate of the weights: linear up until `warmup`, linear down to 0 from `freeze_at`."""
        return _between(progress, 0, self.warmup) * (1 - _between(progress, self.freeze_at, 1))


def _between(progress: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (progress - start) / (end - start))) if end > start else float(progress >= end)
