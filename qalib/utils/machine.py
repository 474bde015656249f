"""The machine at hand: its device, the types it computes in hardware, its specifications and library versions."""

import ctypes
import gc
import os
import platform
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from qalib.utils import openmp
from qalib.utils.errors import InputError

try:
    import resource
except ImportError:  # on Windows
    resource = None

openmp.respect_limits()  # before the first product
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy", "pandas", "matplotlib",
             "altair", "papermill", "nbconvert", "huggingface-hub", "qalib")  # fmt: skip


def device(wanted: str = "auto") -> str:
    """`cpu` or `cuda`: as asked for, or for `auto` the GPU if there is one. Raises InputError if it is missing."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"no device {wanted!r}; there are auto, cpu and cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda': torch finds no CUDA GPU on this machine")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def devices(wanted: str = "auto") -> list[str]:
    """The devices to measure on: for `auto` the CPU and, if there is one, the GPU (last); else the one asked for."""
    return ["cpu", "cuda"] if wanted == "auto" and device(wanted) == "cuda" else [device(wanted)]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h
CPUINFO = Path("/proc/cpuinfo")
MEMBERSHIP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
UNKNOWN = "not known: py-cpuinfo is not installed"
# Those that matter here.
INSTRUCTIONS = "avx2 avx_vnni avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8 asimd asimddp bf16".split()
BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, x86 and Arm, as the processor names them
# Environment variables that make a processor behave like an older one, with the values (lower case) that leave it bf16:
# of torch's own loops, of oneDNN, and of MKL, which multiplies torch's float32 on x86.
CAPS = {
    "ATEN_CPU_CAPABILITY": {"avx512"},
    "ONEDNN_MAX_CPU_ISA": {"all", "default", "avx512_core_bf16", "avx512_core_fp16", "avx512_core_amx", "avx10_1_512"},
    "MKL_ENABLE_INSTRUCTIONS": {"avx512_e3", "avx512_e4"},
}
KERNEL_CAP = "QALIB_INSTRUCTIONS"  # of our own kernel only, which none of the others concerns


@cache
def _processor() -> tuple[str, frozenset[str]]:
    """The processor's name and flags, from py-cpuinfo or, without it, from what Linux says (elsewhere none)."""
    try:
        import cpuinfo
    except ImportError:
        text = CPUINFO.read_text() if CPUINFO.exists() else ""
        said = dict(re.findall(r"^(flags|Features|model name)\s*:\s*(.+)$", text, re.MULTILINE))
        name = said.get("model name", UNKNOWN)
        return name, frozenset((said.get("flags") or said.get("Features", "")).split())
    info = cpuinfo.get_cpu_info()
    return info.get("brand_raw", platform.processor() or "unknown"), frozenset(info.get("flags", ()))


def caps() -> dict[str, str]:
    """The environment variables that now cap the processor's instruction sets, of torch or of our kernel, by name."""
    return {name: os.environ[name] for name in (*CAPS, KERNEL_CAP) if os.environ.get(name)}


def hardware_dtypes(device: str = "cpu") -> list[str]:
    """Return the types that torch has instructions to multiply on a device, `cpu` or `cuda`, as far as caps allow them.

    They are in a fixed order: instructions do not tell which type is faster, `runtimes.dtypes` does, which also knows
    what our kernel has instructions for.
    """
    if device == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        allowed = all(os.environ.get(name, "").lower() in {"", *uncapped} for name, uncapped in CAPS.items())
        bf16 = bool(_processor()[1] & BF16_INSTRUCTIONS) and allowed
    return ["fp32", "bf16"] if bf16 else ["fp32"]


def has_tf32() -> bool:
    """Whether there is a GPU that multiplies float32 as tf32 (compute capability 8, Ampere, or later)."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def is_emulated(dtype: str, device: str = "cpu") -> bool:
    """Whether torch emulates a type with instructions for another on a device, which may take many times as long."""
    return dtype != "tf32" and dtype not in hardware_dtypes(device)


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: the machine's, or less under cgroups or `ulimit -v`."""
    limits = [psutil.virtual_memory().total, *_cgroup_limits()]
    if resource and (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(most)
    return min(limits)


def _cgroup_limits() -> Iterator[int]:
    """The memory limits, in bytes, of this process's cgroups of version 1 and 2 and of those around them."""
    for line in MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2, version 1
            top = CGROUPS / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            group = top / path.strip("/")
            for file in (folder / name for folder in (group, *group.parents) if folder.is_relative_to(top)):
                if file.exists() and (most := file.read_text().strip()).isdecimal():
                    yield int(most)


@cache
def specs() -> dict[str, str | int | float]:
    """Processor, its types in hardware and caps, cores, threads that torch uses, memory in GiB, GPU, system, Python."""
    processor, flags = _processor()
    sets = [name for name in INSTRUCTIONS if name in flags]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        gpu = "none (torch finds no CUDA device)"
    return {
        "CPU": processor,
        "instruction sets": " ".join(sets) or ("none of note" if flags else UNKNOWN),
        "capped by": " ".join(f"{name}={value}" for name, value in caps().items()) or "nothing",
        "types in hardware": " ".join(hardware_dtypes()),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        "threads used": torch.get_num_threads(),
        "memory": f"{memory_limit() / 2**30:.0f} GiB",
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


def release_freed_memory() -> None:
    """Give freed memory back to the system: glibc holds on to that of tensors up to 32 MiB, a whole model in all."""
    gc.collect()
    if platform.system() == "Linux" and (give_back := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        give_back(0)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the process's next tensors, for good; elsewhere nothing.

    It gives large ones back to the system otherwise, and page faults then take a tenth or more of a training step.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
            library.mallopt(parameter, value)
