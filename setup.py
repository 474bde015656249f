"""The optional C++ part of the package; all else about it stands in pyproject.toml."""

import os
import sys

from setuptools import setup

SOURCE = "qalib/runtimes/block_sparse.cpp"
HEADERS = ["instruction_sets.h", "block_sparse_kernel.h", "attention_kernel.h"]


def extension() -> dict:
    """What `setup` needs to build the extension, or nothing where torch is not there to build against.

    Nothing either with QALIB_KERNEL=no: `make install` compiles it by itself, beside the installation of packages.
    """
    if os.environ.get("QALIB_KERNEL") == "no":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        print(f"{SOURCE} is not compiled: {error}", file=sys.stderr)
        return {}

    class Build(BuildExtension):
        """Compiles if it can: without a compiler the package works, slower."""

        def run(self):
            try:
                super().run()
            except Exception as error:
                print(f"{SOURCE} is not compiled: {error}", file=sys.stderr)

    # Not -fopenmp: block_sparse.cpp asks torch's own OpenMP library, whichever compiler that was made for.
    flags = ["-O3"]
    depends = [os.path.join(os.path.dirname(SOURCE), name) for name in HEADERS]
    module = CppExtension(
        "qalib.runtimes._block_sparse", [SOURCE], depends=depends, extra_compile_args=flags, optional=True
    )
    return {"ext_modules": [module], "cmdclass": {"build_ext": Build.with_options(use_ninja=False)}}


setup(**extension())
