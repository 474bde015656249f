"""The teacher of a pruning run: its logits for every window, computed once."""

import math
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from qalib.pruning import movement
from qalib.qa.windows import MAX_LENGTH

LARGEST = 60_000.0  # of a stored logit, in fp16


class Teacher:
    """A teacher's logits for every window, computed when first asked for and kept on disk in fp16.

    The files in `folder` carry `key`, a hash of teacher, data and windows: another epoch, or a resumed run, finds them.
    """

    def __init__(self, model: nn.Module, count: int, folder: Path, key: str):
        self.model = model.eval().requires_grad_(False)
        with PartialState().main_process_first():
            self.values = _memmap(folder / f"teacher-{key}.logits", np.float16, (count, 2, MAX_LENGTH))
            self.known = _memmap(folder / f"teacher-{key}.known", np.uint8, (count,))

    def __call__(self, index: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Logits, shape `(batch, 2, length)`, for the windows numbered `index`, with the given model inputs."""
        rows, mask = index.cpu().numpy(), inputs["attention_mask"]
        if not self.known[rows].all():
            with torch.no_grad():
                fresh = movement.logits(self.model.to(mask.device), **inputs).clamp(-LARGEST, LARGEST)
            self.values[rows, :, : mask.shape[1]] = fresh.cpu().numpy()
            self.known[rows] = 1
        stored = torch.from_numpy(self.values[rows, :, : mask.shape[1]].astype(np.float32)).to(mask.device)
        return stored.masked_fill(mask[:, None] == 0, torch.finfo(torch.float32).min)


def _memmap(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not path.exists() or path.stat().st_size != size:
        with open(path, "wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
