"""The optional C++ part of the package, and what a wheel carries; all else about it stands in pyproject.toml."""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Beside the package in the repository, within it in a wheel.
CARRIED = ("notebooks", "models/minilm-l6-squad-block-sparse")
KERNEL = Path("qalib/runtimes/cpu/kernel")
_AVX2, _AVX512 = ["-mavx2", "-mfma"], ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
INSTRUCTION_SETS = {  # a file of KERNEL each, and the flags that it is compiled with
    "portable": [],
    "avx2": _AVX2,
    "avx2_int8": _AVX2,
    "avx_vnni": [*_AVX2, "-mavxvnni"],
    "avx512": _AVX512,
    "avx512_bf16": [*_AVX512, "-mavx512bf16"],
    "avx512_vnni": [*_AVX512, "-mavx512vnni"],
    "amx_bf16": [*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    "amx_int8": [*_AVX512, "-mavx512bf16", "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
}
if platform.machine() not in ("x86_64", "AMD64"):
    INSTRUCTION_SETS = {"portable": []}


def extension() -> dict:
    """What `setup` needs to build the extension, or nothing where torch is not there to build against.

    Nothing either with QALIB_KERNEL=no: `make install` compiles it by itself, beside the installation of packages.
    """
    if os.environ.get("QALIB_KERNEL") == "no":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        print(f"{KERNEL} is not compiled: {error}", file=sys.stderr)
        return {}

    class Build(BuildExtension):
        """Compiles if it can: without a compiler the package works, slower."""

        def run(self):
            """Compile, or say why not."""
            try:
                super().run()
            except Exception as error:
                print(f"{KERNEL} is not compiled: {error}", file=sys.stderr)

        def build_extension(self, ext):
            """Compile each instruction set with its flags, then the rest."""

            def compiled(name):
                return self.compiler.compile(
                    [str(KERNEL / f"{name}.cpp")], self.build_temp, extra_postargs=["-O3", *INSTRUCTION_SETS[name]]
                )

            with ThreadPoolExecutor(2) as pool:
                ext.extra_objects = sum(pool.map(compiled, INSTRUCTION_SETS), [])
            super().build_extension(ext)

    # Not -fopenmp: threads.h asks torch's own OpenMP library, whichever compiler that was made for.
    module = CppExtension(
        "qalib.runtimes.cpu._block_sparse",
        [str(KERNEL / f"{name}.cpp") for name in ("block_sparse", "gradient", "dispatch")],
        depends=sorted(map(str, KERNEL.iterdir())),
        extra_compile_args=["-O3"],
        optional=True,
    )
    return {"ext_modules": [module], "cmdclass": {"build_ext": Build.with_options(use_ninja=False)}}


class Carry(build_py):
    """Copies what is CARRIED to where `qalib.utils.paths` finds it, unless the package stays in the repository."""

    def run(self):
        """Copy the package, then what it carries."""
        super().run()
        for name in () if self.editable_mode else CARRIED:
            target = Path(self.build_lib) / "qalib" / "repository" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


if __name__ == "__main__":
    compiled = extension()
    setup(**compiled | {"cmdclass": {"build_py": Carry} | compiled.get("cmdclass", {})})
