"""The machine at hand: device, specifications and library versions, read from the machine itself."""

import ctypes
import gc
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import cpuinfo
import psutil
import torch

from qalib.utils.errors import InputError

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy", "pandas", "matplotlib",
             "altair", "papermill", "nbconvert", "huggingface-hub", "qalib")  # fmt: skip


def device(wanted: str = "auto") -> str:
    """`cpu` or `cuda`: as wanted, or for `auto` the GPU if there is one. Raises InputError if it is not there."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"no device {wanted!r}; there are auto, cpu and cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but torch finds no CUDA GPU on this machine")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def devices(wanted: str = "auto") -> list[str]:
    """The devices to measure on: for `auto` the CPU and, if there is one, the GPU (last); else the one wanted."""
    return ["cpu", "cuda"] if wanted == "auto" and device(wanted) == "cuda" else [device(wanted)]


@cache
def specs() -> dict[str, str | int | float]:
    """Processor, cores, threads that torch uses, memory in GiB, GPU (or why there is none), system and Python."""
    info = cpuinfo.get_cpu_info()
    sets = [
        name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in info.get("flags", ())
    ]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        gpu = "none (torch finds no CUDA device)"
    return {
        "CPU": info.get("brand_raw", platform.processor() or "unknown"),
        "instruction sets": " ".join(sets) or "none of note",
        "cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        "threads used": torch.get_num_threads(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "GPU": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


@cache
def versions() -> dict[str, str]:
    """Installed versions of the libraries that the results depend on."""
    result = {}
    for name in LIBRARIES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "not installed"
    return result


def trim() -> None:
    """Give freed memory back to the system: glibc keeps what tensors of up to 32 MiB leave, as much as a model."""
    gc.collect()
    if platform.system() == "Linux" and (give_back := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        give_back(0)
