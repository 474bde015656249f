"""Quantization: weights in int8 with one scale per row, for smaller files.

Symmetric and linear, as in Q8BERT (arXiv 1910.06188, section 2.1), with one difference: a nonzero weight never becomes
zero, so that a model's density is the same before and after.
"""

import torch
from torch import Tensor

INT8_MAX = 127  # of the int8 values; -128 is not used


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 values of the weight's shape, `(..., n)`, and the scales of its rows, float32, shape `(...)`.

    A value is off by at most half a scale; a nonzero one that would round to zero takes the smallest step instead, and
    is off by less than a whole scale.
    """
    weight = weight.float()
    scales = (weight.abs().amax(-1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    values = (weight / scales[..., None]).round()
    return torch.where(values == 0, weight.sign(), values).to(torch.int8), scales


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """The weight in float32, of the shape of `values`.

    Raises ValueError if values and scales do not fit together, or cannot come from `quantize`: a negative scale, a
    scale of 0 for a row with nonzero values, a value of -128. Scales that are not finite give weights that are not.
    """
    if values.dtype != torch.int8 or not scales.is_floating_point():
        raise ValueError(f"values of {values.dtype} with scales of {scales.dtype}, not int8 with floating point")
    if values.shape[:-1] != scales.shape:
        raise ValueError(f"{tuple(scales.shape)} scales do not fit values of shape {tuple(values.shape)}")
    scales = scales.float()
    bad = (scales < 0) | (scales == 0) & (values != 0).any(-1)
    if bad.any():
        raise ValueError(f"scales must be positive, and one is {scales[bad][0].item():g}")
    if (values < -INT8_MAX).any():
        raise ValueError(f"int8 values must be from -{INT8_MAX} to {INT8_MAX}, and one is {values.min().item()}")
    return values.float() * scales[..., None]
