"""The order of training: windows of like length in a batch, batches of all lengths mixed."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

POOL = 64  # batches whose windows are sorted by length among themselves


class LengthGroupedSampler(Sampler):
    """An order in which every `batch_size` successive windows are of like length, and batches of all lengths mix.

    `batch_size` counts the windows of a step over all processes: the steps are the same however many share them.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order, pool = random.permutation(len(self.lengths)), POOL * self.batch_size
        pools = [order[first : first + pool] for first in range(0, len(order), pool)]
        order = np.concatenate([part[self.lengths[part].argsort(kind="stable")] for part in pools])
        full = len(order) // self.batch_size * self.batch_size
        mixed = random.permutation(order[:full].reshape(-1, self.batch_size)).flatten()
        return iter([*mixed.tolist(), *order[full:].tolist()])

    def batches(self, steps: int) -> Iterator[list[int]]:
        """The batches of the first steps, epoch after epoch, all of `batch_size`: for a loop that counts steps."""
        order: list[int] = []
        self.set_epoch(0)
        for _ in range(steps):
            while len(order) < self.batch_size:
                order += self
                self.set_epoch(self.epoch + 1)
            yield order[: self.batch_size]
            del order[: self.batch_size]
