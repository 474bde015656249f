"""What a pruning run learns from: the windows of SQuAD's questions, with their answers."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from qalib.qa import windows
from qalib.qa.squad import Question
from qalib.qa.windows import MAX_LENGTH, Window
from qalib.utils.errors import InputError

PAD_TO_MULTIPLE_OF = 8  # tokens: 6 % fewer than with 32, and still whole vectors


class SquadDataset(Dataset):
    """Windows of questions with `positions`, shape `(windows, 2)`: the tokens where the answer begins and ends.

    A window without the whole answer points at its first token, `[CLS]`, as do those of a question that has none
    (SQuAD v2.0). If there are several references, the first counts. Windows of more than `max_length` tokens are left
    out. Raises InputError for an answer that is not in its context where the file says, or if no window is left.
    """

    def __init__(self, questions: Sequence[Question], tokenizer, max_length: int | None = None):
        for q in questions:
            if not q.answers:
                continue
            start, answer = q.starts[0], q.answers[0]
            if not answer or start < 0 or q.context[start : start + len(answer)] != answer:
                raise InputError(f"question {q.id!r}: {answer!r} is not at character {start} of its context")
        self.windows = windows.windows(tokenizer, [q.question for q in questions], [q.context for q in questions])
        if max_length is not None:
            shortest = min(map(len, self.windows), default=0)
            self.windows = [window for window in self.windows if len(window) <= max_length]
            if not self.windows:
                raise InputError(f"max_length {max_length}: must be at least {shortest}, the shortest window's tokens")
        self.positions = np.array([answer_position(w, questions[w.index]) for w in self.windows])
        self.lengths = np.array([len(w) for w in self.windows])
        self.pad_id = tokenizer.pad_token_id or 0

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> int:
        return index

    @cached_property
    def sha256(self) -> str:
        """Hex digest of what the model is given: the windows' tokens, one window after the other."""
        digest = hashlib.sha256(self.lengths.astype(np.int64).tobytes())
        for window in self.windows:
            digest.update(window.ids.tobytes())
            digest.update(window.types.tobytes())
        return digest.hexdigest()

    def collate(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor | np.ndarray]:
        """The batch of some windows (see `losses.Batch`), padded to a multiple of PAD_TO_MULTIPLE_OF tokens."""
        indices = list(indices)
        longest = int(self.lengths[indices].max())
        length = min(-(-longest // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF, MAX_LENGTH)
        inputs = windows.collate([self.windows[i] for i in indices], self.pad_id, length)
        return inputs | {"positions": torch.from_numpy(self.positions[indices]), "index": np.array(indices)}


def answer_position(window: Window, question: Question) -> tuple[int, int]:
    """First and last token of the answer in a window, (0, 0) if the window lacks part of it or there is none."""
    if not question.answers:
        return 0, 0
    start, end = question.starts[0], question.starts[0] + len(question.answers[0])
    inside = np.flatnonzero((window.offsets[:, 1] > start) & (window.offsets[:, 0] < end))
    if not len(inside) or window.offsets[0, 0] > start or window.offsets[-1, 1] < end:
        return 0, 0
    return window.first + int(inside[0]), window.first + int(inside[-1])
