"""The teacher of a pruning run: its logits for every window, computed once and shared by runs."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import Batch, HiddenStates, teacher_logits, teacher_outputs
from qalib.qa.windows import MAX_LENGTH
from qalib.utils.paths import CACHE

BATCH = 256  # windows that are asked for at a time where all are
MAX_LOGIT = 60_000.0  # of a stored logit, in fp16
CACHE_FOLDER = CACHE / "teachers"


class TeacherLogitsCache:
    """A teacher's logits for every window of a data set, computed when first asked for and kept on disk in fp16.

    The files carry a hash of teacher (`sha256`), windows and `precision`, so that other epochs and other runs find
    them: 1.5 kB a window, 135 MB for SQuAD's training set. Processes and runs may write them at the same time; they
    write the same. Nothing is removed: the folder can be deleted whenever no run is at work.
    """

    def __init__(
        self, model: nn.Module, sha256: str, data: SquadDataset, precision: str = "fp32", folder: Path | None = None
    ):
        self.data = data
        self.model, self.folder = model.eval().requires_grad_(False), (folder or CACHE_FOLDER).expanduser()
        self.key = hashlib.sha256(" ".join((sha256, data.sha256, precision)).encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.values = _memmap(self.folder / f"{self.key}.logits", np.float16, (len(data), 2, MAX_LENGTH))
        self.known = _memmap(self.folder / f"{self.key}.known", np.uint8, (len(data),))

    def __contains__(self, index: np.ndarray) -> bool:
        return bool(self.known[index].all())

    def __call__(self, batch: Batch) -> Tensor:
        """Logits of a batch, shape `(batch, 2, length)`."""
        rows, mask = batch["index"], batch["attention_mask"]
        if rows not in self:
            self._store(batch, teacher_logits(self.model.to(mask.device), batch))
        stored = torch.from_numpy(self.values[rows, :, : mask.shape[1]].astype(np.float32))
        stored = stored.pin_memory() if mask.is_cuda else stored  # from other memory a copy waits for the GPU
        stored = stored.to(mask.device, non_blocking=True)
        return stored.masked_fill(mask[:, None] == 0, torch.finfo(torch.float32).min)

    def outputs(self, batch: Batch) -> tuple[Tensor, HiddenStates]:
        """Logits of a batch and hidden states, which are too large to keep: the teacher is asked each time."""
        logits, hidden = teacher_outputs(self.model.to(batch["attention_mask"].device), batch)
        if batch["index"] not in self:
            self._store(batch, logits)
        return logits, hidden

    def _store(self, batch: Batch, logits: Tensor) -> None:
        rows = batch["index"]
        self.values[rows, :, : logits.shape[-1]] = logits.clamp(-MAX_LOGIT, MAX_LOGIT).cpu().numpy()
        self.known[rows] = 1

    def fill(self, device: torch.device, process: int = 0, processes: int = 1) -> None:
        """Ask for all windows that are not known yet, or one process's share of them, on a device, by length."""
        left = np.flatnonzero(self.known == 0)
        left = left[np.argsort(self.data.lengths[left], kind="stable")][process::processes]
        for first in range(0, len(left), BATCH):
            batch = self.data.collate(left[first : first + BATCH])
            self({name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()})


def _memmap(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:  # the first run makes it full size; what other runs have written stays
        if os.fstat(file.fileno()).st_size < size:
            _reserve(file.fileno(), size, path)
    return np.memmap(path, dtype, "r+", shape=shape)


def _reserve(descriptor: int, size: int, path: Path) -> None:
    """Reserve the disk space now: on a full disk, writing to a mapped file crashes without a word."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        os.truncate(descriptor, size)
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
