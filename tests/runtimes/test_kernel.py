"""The kernels without torch (kernel_driver.cpp): by each compiler that is here, for Arm too, against float64."""

import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from qalib.runtimes.cpu import instruction_sets

TESTS, SETUP = Path(__file__).parent, runpy.run_path(str(ROOT / "setup.py"))
KERNEL, SETS = ROOT / SETUP["KERNEL"], SETUP["INSTRUCTION_SETS"]
SOURCES = {name: KERNEL / f"{name}.cpp" for name in ("dispatch", *SETS)} | {"driver": TESTS / "kernel_driver.cpp"}
FLAGS = ["-std=c++17", "-O3", "-fPIC", f"-I{KERNEL}"]
ARM = "aarch64-linux-gnu-g++"
EMULATED = {  # what the rest of an instruction set needs, and flags to do without its own instructions
    "avx_vnni": ("avx2", ["-DEMULATE_VNNI", "-mno-avxvnni"]),
    "amx_int8": ("avx512_bf16", [f'-DEMULATE_TILES="{TESTS / "emulated_tiles.h"}"']),
}
Objects = dict[str, Path]


def need(*programs: str) -> None:
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def compiled(folder: Path, names, compiler: str, *flags: str) -> Objects:
    """The objects of some SOURCES, each compiled with the flags of its instruction set."""
    objects = {name: folder / f"{name}.o" for name in names}
    for name, out in objects.items():
        subprocess.run([compiler, *FLAGS, *SETS.get(name, ()), *flags, "-c", SOURCES[name], "-o", out], check=True)
    return objects


def check(objects: Objects, *linker: str, emulator: tuple[str, ...] = ()) -> set[str]:
    """Run the driver, hold every error against its bound; returns the instruction sets that were run."""
    program = objects["driver"].with_suffix("")
    subprocess.run([*linker, *objects.values(), "-o", program], check=True)
    printed = subprocess.run([*emulator, program], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in printed.splitlines()]
    wrong = [line for line in lines if not float(line[2]) <= float(line[3])]
    assert lines and not wrong
    return {name for name, *_ in lines}


@pytest.fixture(scope="module", params=["g++", "clang++"])
def compiler(request):
    need(request.param)
    return request.param


@pytest.fixture(scope="module")
def objects(compiler, tmp_path_factory):
    return compiled(tmp_path_factory.mktemp(compiler), SOURCES, compiler)


def test_each_compiler(objects, compiler):
    found = check(objects, compiler)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    # A compiler that left out what the machine has would be right, and slow.
    expected = {"avx2": {"avx2", "avx2_int8"}, "avx_vnni": {"avx_vnni"}, "avx512_vnni": {"avx512", "avx512_vnni"}}
    expected["amx_int8"] = {"amx_bf16", "amx_int8"}
    for flag, names in expected.items():
        assert flag not in flags.split() or names <= found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
@pytest.mark.parametrize("name", EMULATED)
def test_all_but_the_instructions_themselves(name, objects, compiler, tmp_path):
    rest, flags = EMULATED[name]
    if rest not in check(objects, compiler):
        pytest.skip(f"the rest of it needs {rest}")
    own = [other for other in SETS if other.split("_")[0] == name.split("_")[0]]
    emulated = compiled(tmp_path, ["dispatch", *own], compiler, *flags)
    assert name in check(objects | emulated, compiler)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
def test_properties_of_instruction_sets_that_are_not_here(tmp_path):
    """The operator compiled with what stands for their instructions, under all of test_block_sparse.py."""
    need("g++")
    here = instruction_sets.available()
    missing = [name for name, (rest, _) in EMULATED.items() if rest in here and name not in here]
    if not missing:
        pytest.skip("there are none that could be emulated")
    flags = " ".join(shlex.quote(flag) for _, given in EMULATED.values() for flag in given if flag.startswith("-D"))
    built = ["--build-lib", tmp_path, "--build-temp", tmp_path / "objects"]
    command = [sys.executable, "setup.py", "--quiet", "build_ext", *built]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QALIB_")}
    subprocess.run(command, cwd=ROOT, env=environment | {"CPPFLAGS": f"-w {flags}"}, check=True)
    script = (
        "import sys, pytest, qalib.runtimes.cpu; qalib.runtimes.cpu.__path__.insert(0, sys.argv[1])\n"
        "from qalib.runtimes.cpu import instruction_sets; assert sys.argv[2] in instruction_sets.available()\n"
        "sys.exit(pytest.main(sys.argv[3:]))"
    )
    tests = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", TESTS / "test_block_sparse.py", "-k", "amx or avx_vnni"]
    runs = [sys.executable, "-c", script, tmp_path / "qalib" / "runtimes" / "cpu", missing[-1], *tests]
    subprocess.run(runs, env=environment, check=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
def test_avx_vnni_is_what_is_compiled(objects):
    need("objdump")
    command = ["objdump", "--disassemble", objects["avx_vnni"]]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    products = [line for line in text.splitlines() if "vpdpbusd" in line and "ymm" in line]
    assert products and all("{vex}" in line for line in products)  # the other encoding is AVX-512's


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
def test_what_is_compiled_for_an_instruction_set_runs_by_its_name_only(objects):
    """Nothing runs when it is loaded, and no function is there for the linker to take for another file's."""
    need("nm")
    for name in SETS:
        text = subprocess.run(["nm", "-C", objects[name]], check=True, capture_output=True, text=True).stdout
        symbols = re.findall(r"^[0-9a-f]+ (\w) (.+)$", text, re.MULTILINE)
        linked = [symbol for kind, symbol in symbols if kind not in "tdrbn" and not symbol.startswith("DW.ref")]
        assert linked == [f"qalib::{name}"] and not [symbol for _, symbol in symbols if "_GLOBAL__sub_I" in symbol]


def test_arm(tmp_path):
    need(ARM, "qemu-aarch64")
    objects = compiled(tmp_path, ["dispatch", "portable", "driver"], ARM)
    assert check(objects, ARM, "-static", emulator=("qemu-aarch64",)) == {"portable"}
