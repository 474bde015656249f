"""Answers: whatever a student hands in as a tensor, held against another, and the difference in words."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

TOLERANCE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-6}


def tensor(value: Any) -> Tensor:
    """Numbers, truth values, lists, and what is of numpy, pandas or torch, as a tensor of doubles.

    Raises an error of many kinds for anything else.
    """
    if not isinstance(value, Tensor):
        array = np.asarray(value)  # of objects where they are fractions, decimals or None
        value = torch.from_numpy(array.astype(float) if array.dtype == object and value is not None else array.copy())
    found = value.detach().cpu().to_dense()
    if found.is_complex():
        raise TypeError("complex")
    return found.double()


def equal(found: Tensor, expected: Tensor) -> bool:
    """Are they the same but for rounding and for dimensions of size one?"""
    if _meant(found) != _meant(expected):
        return False
    return bool(torch.isclose(found.reshape(expected.shape), expected, **TOLERANCE).all())


def rounded(found: Tensor, expected: Tensor) -> bool:
    """Is it the expected with too few digits, rounded or cut off?"""
    if _meant(found) != _meant(expected) or not found.numel():
        return False
    error = (found.reshape(expected.shape) - expected).abs()
    if not error.isfinite().all() or error.max() > 0.1 * expected.abs().max():
        return False
    return any(
        bool((error <= 10.0**-digits).all())
        and torch.allclose(found.round(decimals=digits), found, rtol=1e-6, atol=1e-9)
        for digits in range(7)
    )


def difference(found: Tensor, expected: Tensor) -> str:
    """How a wrong answer is wrong that no exercise has a word for."""
    if not found.numel() and expected.numel():
        return "the answer is empty"
    if not expected.ndim and found.numel() > 1:
        return f"expected one number, found a tensor of shape {tuple(found.shape)}"
    if expected.numel() > 1 and not found.ndim:
        return f"expected a tensor of shape {tuple(expected.shape)}, found one number"
    if expected.ndim == 2 and equal(found, expected.T):
        return "rows and columns are interchanged"
    if _meant(found) != _meant(expected):
        return f"the shape is {tuple(found.shape)}, expected {tuple(expected.shape)}"
    found = found.reshape(expected.shape)
    for text, factor in (("a hundred times", 100), ("a hundredth of", 0.01), ("minus", -1)):
        if equal(found, factor * expected):
            return f"that is {text} the answer" + ("" if factor < 0 else ": percent and fractions are mixed up")
    if nans := int(found.isnan().sum()):
        what = f"{nans:,} of {found.numel():,} values are" if found.ndim else "the answer is"
        return f"{what} nan, not a number: something was divided by zero, or the logarithm of zero taken"
    if _truth(expected) and _truth(found):
        kept, asked = int(found.sum()), int(expected.sum())
        if kept != asked:
            return f"that marks {kept:,}, expected {asked:,}"
    if rounded(found, expected):
        return "close: give more digits"
    if found.ndim:
        wrong = int((~torch.isclose(found, expected, **TOLERANCE)).sum())
        return f"the shape is right, {wrong:,} of {found.numel():,} values are not"
    return f"{float(found):.6g} is not the value, which is {'larger' if expected > found else 'smaller'}"


def _meant(value: Tensor) -> list[int]:
    return [size for size in value.shape if size != 1]


def _truth(value: Tensor) -> bool:
    return value.ndim > 0 and bool(((value == 0) | (value == 1)).all())
