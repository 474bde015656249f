"""DeepSparse 1.8.0 (Neural Magic, 2024; the last version) as a peer, in an environment and a process of its own.

It requires older packages than this project, so `make deepsparse` makes `.venv-deepsparse` for it, or QALIB_DEEPSPARSE
names the python of another environment that has it. Its licence (Neural Magic DeepSparse Community License) allows
evaluation only, not production: it is for the benchmark, and nothing depends on it.

It skips zeros wherever they are in a matrix, and compiles a graph for one shape of batch: at the first batch of it.
"""

import copy

import torch
from torch import nn

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.peers.deepsparse.session import build, caveat, unavailable_reason
from qalib.runtimes.peers.session import PEER
from qalib.runtimes.registry import runtime

__all__ = ["build", "unavailable_reason"]

_DEEPSPARSE = PEER | {
    "sparse": True,
    "dtypes": ("fp32",),
    "unavailable_reason": unavailable_reason,
    "caveat": caveat,
}


@runtime("deepsparse", "DeepSparse, which skips single zeros, in an environment of its own", **_DEEPSPARSE)
def _deepsparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return build(copy.deepcopy(checkpoint.model), int8=False)


@runtime("deepsparse-int8", "DeepSparse, static int8, in an environment of its own", exact=False, **_DEEPSPARSE)
def _deepsparse_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return build(copy.deepcopy(checkpoint.model), int8=True)


def __dir__() -> list[str]:
    return ["graph", "int8", "session"]
