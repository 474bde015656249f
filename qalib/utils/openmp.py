"""OpenMP and torch: threads within OpenMP's limits, and proof that products in a type are right.

torch's bf16 products (oneDNN's) are NaN or far off, without an error, if OpenMP grants fewer threads than torch asks
for: under OMP_THREAD_LIMIT, OMP_DYNAMIC or OMP_MAX_ACTIVE_LEVELS=0, as batch systems and containers set them.
"""

import ctypes
import logging
import os
from functools import cache

import torch

from qalib.utils.errors import InputError

LIMITS = ("OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS")


def granted_threads() -> int | None:
    """The most threads that OpenMP is sure to grant, or None if torch's OpenMP cannot be asked.

    With OMP_DYNAMIC it is 1: how many are granted then changes with the load, in each thread of the process anew.
    """
    try:
        library = ctypes.CDLL(None)  # torch loads its OpenMP for the whole process
        if library.omp_get_dynamic() or library.omp_get_max_active_levels() < 1:
            return 1
        return library.omp_get_thread_limit()
    except (AttributeError, TypeError, OSError):  # another OpenMP or none, as on macOS and Windows
        return None


def limits() -> str:
    """The environment variables that limit OpenMP's threads here, as NAME=VALUE."""
    return " ".join(f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ) or "OpenMP's limits"


def respect_limits() -> None:
    """Set torch's threads to no more than OpenMP grants; a warning says so if that is for OMP_DYNAMIC."""
    granted, threads = granted_threads(), torch.get_num_threads()
    if granted is not None and granted < threads:
        torch.set_num_threads(granted)
        if os.environ.get("OMP_DYNAMIC"):
            logging.getLogger("qalib").warning(
                f"qalib: {limits()}: torch uses 1 thread, not {threads}, as its bf16 products are wrong if OpenMP "
                "grants fewer threads than it asks for; unset OMP_DYNAMIC for all of them"
            )


def require_right_products(dtype: str) -> None:
    """Raise InputError if torch's products on this CPU in a type, `fp32` or `bf16`, are not those of float64."""
    error = product_error(dtype, torch.get_num_threads())
    if not error <= (tolerance := {"fp32": 1e-4, "bf16": 0.05}[dtype]):  # NaN, too
        remedy = " or choose fp32" if dtype != "fp32" else ""
        raise InputError(
            f"{dtype}: torch's products must be within {tolerance:g} of float64's, and are off by {error:.3g} with "
            f"{torch.get_num_threads()} threads under {limits()}; unset the variables that steer OpenMP and "
            f"oneDNN{remedy}"
        )


@cache
def product_error(dtype: str, threads: int) -> float:
    """The largest error of torch's products in a type with so many threads, relative to the largest element."""
    generator, errors = torch.Generator().manual_seed(0), []
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    for size in (64, 128):
        left, right = torch.randn(2, size, size, generator=generator).to(kind)
        expected = left.double() @ right.double()
        for _ in range(3):
            errors.append((((left @ right).double() - expected).abs().max() / expected.abs().max()).item())
    return float(torch.tensor(errors).max())  # NaN if one is
