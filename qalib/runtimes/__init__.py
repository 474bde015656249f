"""Runtimes: functions from a checkpoint to a torch module with the same logits, at another speed (see `registry`)."""

# A module registers its runtimes when it is imported; the registry lists them in this order.
from qalib.runtimes import dense as dense

# isort: split
from qalib.runtimes import compact as compact

# isort: split
from qalib.runtimes.block_sparse import best, kernel

# isort: split
from qalib.runtimes.gpu import compact_graph as compact_graph

# isort: split
from qalib.runtimes import peers as peers
from qalib.runtimes.dtypes import choose_dtype, is_emulated
from qalib.runtimes.registry import DTYPES, REGISTRY, Runtime, available, build, runtime, unavailable_reason

__all__ = [
    "DTYPES", "REGISTRY", "Runtime", "available", "best", "build", "choose_dtype", "is_emulated", "kernel", "runtime",
    "unavailable_reason",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
