"""The kernel without torch (kernel_driver.cpp): by each compiler that is here, for Arm too, against float64."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FLAGS = ["-std=c++17", "-O1", f"-I{TESTS.parent / 'qalib' / 'runtimes'}"]
ARM = "aarch64-linux-gnu-g++"


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
def test_avx_vnni_but_for_its_instruction(tmp_path):
    need("g++")
    if "avx2" not in check(tmp_path, "g++"):
        pytest.skip("the rest of it needs AVX2")
    assert "avx_vnni" in check(tmp_path, "g++", "-DEMULATE_VNNI")


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
