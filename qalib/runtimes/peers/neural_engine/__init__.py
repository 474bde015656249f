"""The Neural Engine of Intel Extension for Transformers 1.4.2 (2024, archived) as a peer, in an environment of its own.

It requires older packages than this project, so `make neural-engine` makes `.venv-neural-engine` for it, or
QALIB_NEURAL_ENGINE names the python of another environment that has it. It needs AVX-512 with VNNI for int8. Its sparse
kernel skips blocks of 4x1 (output by input): Shen et al. 2023, arXiv 2306.16601.
"""

import tempfile
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from qalib.model import architectures, saving
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.peers import calibration
from qalib.runtimes.peers.neural_engine.worker import CALIBRATION
from qalib.runtimes.peers.remote import TIMED, Environment, Remote
from qalib.runtimes.peers.session import PEER
from qalib.runtimes.registry import runtime
from qalib.utils import machine
from qalib.utils.errors import InputError

ENVIRONMENT = Environment("Neural Engine", "intel_extension_for_transformers", "neural-engine")
WORKER = Path(__file__).with_name("worker.py")
INSTRUCTIONS = "avx512_vnni"


def unavailable_reason() -> str | None:
    """Why the engine cannot be used here, or None."""
    absent = INSTRUCTIONS not in str(machine.specs()["instruction sets"]).split()
    return ENVIRONMENT.unavailable_reason() or (f"this processor has no {INSTRUCTIONS}" if absent else None)


def caveat(checkpoint: Checkpoint, module: nn.Module) -> str:
    """Return what a time of the engine covers, and how many matrices its sparse kernel multiplies."""
    return f"{TIMED}; its sparse kernel multiplies {cast(Remote, module).details['sparse']:.0f} matrices"


def _build(checkpoint: Checkpoint, form: str) -> Remote:
    """Raises InputError for another architecture than BERT, for which the engine would have other graphs."""
    if checkpoint.architecture is not architectures.BERT:
        raise InputError(f"{checkpoint.name}: {checkpoint.architecture.name} is not run by the Neural Engine here")
    folder = tempfile.TemporaryDirectory()
    saving.save_transformers(checkpoint, folder.name)
    batches = enumerate(calibration.batches(checkpoint.model.config.vocab_size))
    arrays: dict[str, Any] = {f"{number}/{name}": part for number, batch in batches for name, part in batch.items()}
    np.savez(Path(folder.name) / CALIBRATION, **arrays)
    module = Remote(ENVIRONMENT, WORKER, Path(folder.name), form)
    weakref.finalize(module, folder.cleanup)
    return module


_ENGINE = PEER | {"exact": False, "dtypes": ("fp32",), "unavailable_reason": unavailable_reason, "caveat": caveat}


@runtime("neural-engine-int8", "Intel's Neural Engine, static int8, in an environment of its own", **_ENGINE)
def _dense(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return _build(checkpoint, "dense")


@runtime("neural-engine-int8-sparse", "Intel's Neural Engine, which skips blocks of 4x1", **_ENGINE | {"sparse": True})
def _sparse(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return _build(checkpoint, "sparse")


def __dir__() -> list[str]:
    return ["caveat", "unavailable_reason"]
