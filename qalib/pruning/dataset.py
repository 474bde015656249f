"""What a pruning run learns from: windows with their answers, in an order that makes batches of like length."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from qalib.qa.squad import Question
from qalib.qa.windows import MAX_LENGTH, Window, collate, windows
from qalib.utils.errors import InputError

LENGTHS = 32  # batches are padded to multiples of it: with few shapes memory is used again


class TrainingWindows(Dataset):
    """Windows of questions with `positions`, shape `(windows, 2)`: the tokens where the answer begins and ends.

    A window without the whole answer points at its first token, `[CLS]`. Of several references the first counts.
    Raises InputError for an answer that does not stand in its context where the file says.
    """

    def __init__(self, questions: Sequence[Question], tokenizer):
        for q in questions:
            start, answer = q.starts[0], q.answers[0]
            if not answer or start < 0 or q.context[start : start + len(answer)] != answer:
                raise InputError(f"question {q.id!r}: {answer!r} does not stand at character {start} of its context")
        self.windows = windows(tokenizer, [q.question for q in questions], [q.context for q in questions])
        self.positions = np.array([answer_position(w, questions[w.index]) for w in self.windows])
        self.lengths = np.array([len(w) for w in self.windows])
        self.pad_id = tokenizer.pad_token_id or 0

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> int:
        return index

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """Model inputs `(batch, length)`, `positions` `(batch, 2)`, and the windows' numbers `index` `(batch,)`."""
        length = min(-(-self.lengths[indices].max() // LENGTHS) * LENGTHS, MAX_LENGTH)
        inputs = collate([self.windows[i] for i in indices], self.pad_id, int(length))
        return inputs | {"positions": torch.from_numpy(self.positions[indices]), "index": torch.tensor(indices)}


def answer_position(window: Window, question: Question) -> tuple[int, int]:
    """First and last token of the answer in a window, (0, 0) where it is not all there."""
    start, end = question.starts[0], question.starts[0] + len(question.answers[0])
    inside = np.flatnonzero((window.offsets[:, 1] > start) & (window.offsets[:, 0] < end))
    if not len(inside) or window.offsets[0, 0] > start or window.offsets[-1, 1] < end:
        return 0, 0
    return window.first + int(inside[0]), window.first + int(inside[-1])


class ByLength(Sampler):
    """An order in which every `batch` successive windows are of like length, and batches of all lengths mix.

    `batch` counts the windows of a step over all processes: the steps are the same however many share them.
    """

    def __init__(self, lengths: np.ndarray, batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order, pool = random.permutation(len(self.lengths)), 64 * self.batch
        pools = [order[first : first + pool] for first in range(0, len(order), pool)]
        order = np.concatenate([part[self.lengths[part].argsort(kind="stable")] for part in pools])
        full = len(order) // self.batch * self.batch
        mixed = random.permutation(order[:full].reshape(-1, self.batch)).flatten()
        return iter([*mixed.tolist(), *order[full:].tolist()])

    def first(self, count: int) -> list[int]:
        """The first `count` windows, epoch after epoch: for a loop that counts steps."""
        self.set_epoch(0)
        order = list(self)
        while len(order) < count:
            self.set_epoch(self.epoch + 1)
            order += self
        return order[:count]
