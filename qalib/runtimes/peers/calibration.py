"""The windows of random tokens on which peers find the scales of static int8."""

import numpy as np

from qalib.runtimes.export.onnx_graph import INPUTS

LENGTHS = (8, 16, 32, 64, 128, 256)  # in short windows attention has higher peaks
WINDOWS = 2  # of each length


def batches(vocabulary: int) -> list[dict[str, np.ndarray]]:
    """Batches of the model's inputs, int64 of shape `(WINDOWS, length)`, with tokens below `vocabulary`."""
    generator = np.random.default_rng(0)
    drawn = [generator.integers(vocabulary, size=(WINDOWS, length)) for length in LENGTHS]
    return [dict(zip(map(str, INPUTS), (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True)) for ids in drawn]
