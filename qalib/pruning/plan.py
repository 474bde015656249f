"""Plans of one-shot pruning: the density that each round goes to, evenly down to a density or to a measured speedup."""

import functools
import statistics
from typing import Protocol

from torch import nn

from qalib import runtimes
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import surgery
from qalib.runtimes import dtypes
from qalib.runtimes.forward import forward, random_inputs
from qalib.utils.errors import InputError
from qalib.utils.timing import interleave

BATCH, LENGTH = 8, 384  # of the pass that is timed, as in `qalib benchmark forward`
REPEATS = 7
TOLERANCE = 0.05  # a speedup is reached that is at most such a share below the one wanted
EXTRA_ROUNDS = 3  # at most, after the last, to reach a speedup
DEFINITION = (
    "median seconds of the dense model / median seconds of the block-sparse runtime, side by side on this machine's "
    f"CPU, each in its faster type, over {REPEATS} passes of {BATCH} windows of at most {LENGTH} tokens"
)


class Plan(Protocol):
    """What a run asks before its first round and after each one."""

    @property
    def speedup(self) -> float | None:
        """The speedup as last measured."""
        ...

    def next_density(self, density: float, left: int) -> float | None:
        """Return the density of the next round, from the one reached with so many rounds left; None at the end."""
        ...


class DensityPlan:
    """Goes down to a density in equal steps."""

    speedup = None

    def __init__(self, final: float):
        self.final = final

    def next_density(self, density: float, left: int) -> float | None:
        """See `Plan`."""
        return density - (density - self.final) / left if left else None


class SpeedupPlan:
    """Goes down until the pruned model, as it is then, is so many times as fast as the dense one.

    The time of a pass, 1 / speedup, is nearly linear in the density. Each round measures a point of that curve, for the
    masks that pruning has chosen; its slope there is taken to be the mean of those of the lines to the start and to the
    floor, where every block is removed.

    Raises InputError for a speedup that the model has at the start, or that no density reaches.
    """

    def __init__(self, dense: Checkpoint, pruned: Checkpoint, wanted: float):
        types = {name: dtypes.fastest(name) for name in ("dense", "block-sparse")}
        self.pruned, self.wanted, self.dtype = pruned, wanted, types["block-sparse"]
        self.dense = runtimes.build("dense", dense, dtype=types["dense"])
        self.inputs = random_inputs(dense, BATCH, min(LENGTH, bert.max_tokens(dense.model)))
        empty = pruned.copy()
        for matrix in bert.matrices(empty.model):
            nn.init.zeros_(matrix.linear.weight)
        most, self.speedup = self._measure(empty), self._measure(pruned)
        if not self.speedup < wanted < most:
            raise InputError(
                f"speedup {wanted:g}: must be above {self.speedup:.2f}, what {dense.name} has in the block-sparse "
                f"runtime on this machine, and below {most:.2f}, what it has with every block removed"
            )
        self.start = surgery.kept_share(pruned.model)
        self.ends = (0.0, 1 / most), (self.start, 1 / self.speedup)

    def next_density(self, density: float, left: int) -> float | None:
        """See `Plan`; after the last round there are up to EXTRA_ROUNDS more."""
        if density < self.start:  # where it was measured already
            self.speedup = self._measure(self.pruned)
        if left <= 0 and (self.speedup >= self.wanted * (1 - TOLERANCE) or left <= -EXTRA_ROUNDS):
            return None
        time = 1 / self.speedup
        slope = statistics.mean((time - other) / (density - at) for at, other in self.ends if at != density)
        step = (time - 1 / self.wanted) / slope
        return density - step / max(1, left) if step > 0 else None

    def _measure(self, checkpoint: Checkpoint) -> float:
        modules = {"dense": self.dense, "block-sparse": runtimes.build("block-sparse", checkpoint, dtype=self.dtype)}
        calls = {name: functools.partial(forward, module, self.inputs) for name, module in modules.items()}
        times = interleave(calls, REPEATS, progress=False)
        return times["dense"].median / times["block-sparse"].median
