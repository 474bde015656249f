"""The optional C++ part of the package, and what a wheel carries; all else about it stands in pyproject.toml."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Beside the package in the repository, within it in a wheel.
CARRIED = ("notebooks", "models/minilm-l6-squad-block-sparse")
FOLDER = "qalib/runtimes/cpu/kernel"
SOURCES = [f"{FOLDER}/{name}.cpp" for name in ("block_sparse", "gradient")]
KERNELS = ("block_sparse", "vector", "amx", "gelu", "packing", "narrow", "tile", "attention", "gradient")
HEADERS = ["instruction_sets.h", "gelu_bump.h", "threads.h", *(f"{name}_kernel.h" for name in KERNELS)]


def extension() -> dict:
    """What `setup` needs to build the extension, or nothing where torch is not there to build against.

    Nothing either with QALIB_KERNEL=no: `make install` compiles it by itself, beside the installation of packages.
    """
    if os.environ.get("QALIB_KERNEL") == "no":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        print(f"{FOLDER} is not compiled: {error}", file=sys.stderr)
        return {}

    class Build(BuildExtension):
        """Compiles if it can: without a compiler the package works, slower."""

        def run(self):
            """Compile, or say why not."""
            try:
                super().run()
            except Exception as error:
                print(f"{FOLDER} is not compiled: {error}", file=sys.stderr)

    # Not -fopenmp: threads.h asks torch's own OpenMP library, whichever compiler that was made for.
    flags = ["-O3"]
    depends = [os.path.join(FOLDER, name) for name in HEADERS]
    module = CppExtension(
        "qalib.runtimes.cpu._block_sparse", SOURCES, depends=depends, extra_compile_args=flags, optional=True
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


compiled = extension()
setup(**compiled | {"cmdclass": {"build_py": Carry} | compiled.get("cmdclass", {})})
