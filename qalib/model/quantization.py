"""Weights in int8 with a scale for each row, for smaller files.

Symmetric and linear, as Q8BERT has it (arXiv 1910.06188, section 2.1), with one difference: a weight that is not zero
never becomes zero, so that the density of a model is the same before and after.
"""

import torch
from torch import Tensor

LARGEST = 127  # of the int8 values; -128 is not used


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values in int8, of the shape `(..., n)` of the weight, and the scales of its rows, float32, shape `(...)`.

    A value is off by at most half a scale; one that would be zero and isn't takes the smallest step, which is off by
    less than a whole one.
    """
    weight = weight.float()
    scales = (weight.abs().amax(-1) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    values = (weight / scales[..., None]).round()
    return torch.where(values == 0, weight.sign(), values).to(torch.int8), scales


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """The weight in float32, of the shape of `values`. Raises ValueError if values and scales don't fit one another."""
    if values.dtype != torch.int8 or not scales.is_floating_point():
        raise ValueError(f"values of {values.dtype} with scales of {scales.dtype}, not int8 with floating point")
    if values.shape[:-1] != scales.shape:
        raise ValueError(f"{tuple(scales.shape)} scales do not fit values of shape {tuple(values.shape)}")
    return values.float() * scales.float()[..., None]
