"""The kernel without torch (kernel_driver.cpp): by each compiler that is here, for Arm too, against float64."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from qalib.runtimes.cpu import instruction_sets

TESTS = Path(__file__).parent
FLAGS = ["-std=c++17", "-O1", f"-I{ROOT / 'qalib' / 'runtimes' / 'cpu' / 'kernel'}"]
ARM = "aarch64-linux-gnu-g++"
EMULATED = {  # what the rest of an instruction set needs, and a flag to do without its own instructions
    "avx_vnni": ("avx2", "-DEMULATE_VNNI"),
    "amx_int8": ("avx512_bf16", f'-DEMULATE_TILES="{TESTS / "emulated_tiles.h"}"'),
}


def need(*programs: str) -> None:
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def check(folder: Path, *command: str, emulator: tuple[str, ...] = ()) -> set[str]:
    """Compile the driver, run it, hold every error against its bound; the instruction sets that were run."""
    program = folder / "driver"
    subprocess.run([*command, *FLAGS, TESTS / "kernel_driver.cpp", "-o", program], check=True)
    printed = subprocess.run([*emulator, program], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in printed.splitlines()]
    wrong = [line for line in lines if not float(line[2]) <= float(line[3])]
    assert lines and not wrong
    return {name for name, *_ in lines}


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_each_compiler(compiler, tmp_path):
    need(compiler)
    found = check(tmp_path, compiler)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    # A compiler that left out what the machine has would be right, and slow.
    expected = {"avx2": {"avx2", "avx2_int8"}, "avx_vnni": {"avx_vnni"}, "avx512_vnni": {"avx512", "avx512_vnni"}}
    expected["amx_int8"] = {"amx_bf16", "amx_int8"}
    for flag, names in expected.items():
        assert flag not in flags.split() or names <= found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
@pytest.mark.parametrize("name", EMULATED)
def test_all_but_the_instructions_themselves(name, tmp_path):
    need("g++")
    rest, flag = EMULATED[name]
    if rest not in check(tmp_path, "g++"):
        pytest.skip(f"the rest of it needs {rest}")
    assert name in check(tmp_path, "g++", flag)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
def test_properties_of_instruction_sets_that_are_not_here(tmp_path):
    """The operator compiled with what stands for their instructions, under all of test_block_sparse.py."""
    need("g++")
    here = instruction_sets.available()
    missing = [name for name, (rest, _) in EMULATED.items() if rest in here and name not in here]
    if not missing:
        pytest.skip("there are none that could be emulated")
    flags = " ".join(shlex.quote(flag) for _, flag in EMULATED.values())
    built = ["--build-lib", tmp_path, "--build-temp", tmp_path / "objects"]
    compiler = [sys.executable, "setup.py", "--quiet", "build_ext", *built]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QALIB_")}
    subprocess.run(compiler, cwd=ROOT, env=environment | {"CPPFLAGS": f"-w {flags}"}, check=True)
    script = (
        "import sys, pytest, qalib.runtimes.cpu; qalib.runtimes.cpu.__path__.insert(0, sys.argv[1])\n"
        "from qalib.runtimes.cpu import instruction_sets; assert sys.argv[2] in instruction_sets.available()\n"
        "sys.exit(pytest.main(sys.argv[3:]))"
    )
    tests = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", TESTS / "test_block_sparse.py", "-k", "amx or avx_vnni"]
    runs = [sys.executable, "-c", script, tmp_path / "qalib" / "runtimes" / "cpu", missing[-1], *tests]
    subprocess.run(runs, env=environment, check=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_avx_vnni_is_what_is_compiled(compiler, tmp_path):
    need(compiler, "objdump")
    program = tmp_path / "driver.o"
    subprocess.run([compiler, *FLAGS, "-c", TESTS / "kernel_driver.cpp", "-o", program], check=True)
    text = subprocess.run(["objdump", "--disassemble", program], check=True, capture_output=True, text=True).stdout
    products = [line for line in text.splitlines() if "vpdpbusd" in line and "ymm" in line]
    assert products and all("{vex}" in line for line in products)  # the other encoding is AVX-512's


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is of x86")
def test_what_runs_when_it_is_loaded_is_for_any_machine(tmp_path):
    need("g++", "objdump")
    program = tmp_path / "driver.o"
    subprocess.run(["g++", *FLAGS, "-O3", "-c", TESTS / "kernel_driver.cpp", "-o", program], check=True)
    text = subprocess.run(["objdump", "--disassemble", program], check=True, capture_output=True, text=True).stdout
    functions = dict(re.findall(r"^[0-9a-f]+ <(.+)>:\n((?:.+\n)+)", text, re.MULTILINE))
    loaded = [name for name in functions if name.startswith("_GLOBAL__sub_I")]
    for name in loaded:
        loaded += [
            n for n in re.findall(r"(?:call|jmp).+<([^+>]+)>", functions[name]) if n in functions and n not in loaded
        ]
    assert loaded and not [name for name in loaded if re.search(r"\tv\w+", functions[name])]  # AVX


def test_arm(tmp_path):
    need(ARM, "qemu-aarch64")
    assert check(tmp_path, ARM, "-static", emulator=("qemu-aarch64",)) == {"portable"}
