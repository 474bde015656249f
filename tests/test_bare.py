"""The commands that measure and train run where only torch, transformers and a few more are installed, as on GPUs."""

import ast
import json
import os
import subprocess
import sys

import pytest
from builders import squad_file, towns
from conftest import ROOT

from qalib.utils import machine

COMMANDS = {
    "sparsity": ["--model", "{model}", "--out", "{out}", "--json"],
    "evaluate": ["--model", "{model}", "--data", "{data}", "--questions", "2", "--json"],
    "benchmark": "--model {model} --batch 1 --length 16 --repeats 1 --dtype fp32 --out {out} --json".split(),
    "prune": "--teacher {dense} --data {data} --out {out} --block 4x4 --questions 4 --epochs 1 --batch 4 "
    "--teacher-cache {out}.cache --eval {data} --precision fp32".split(),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_where_little_is_installed(command, packed_folder, dense_folder, tmp_path):
    paths = {
        "model": packed_folder,
        "dense": dense_folder,
        "data": squad_file(tmp_path / "towns.json", towns()),
        "out": tmp_path / "out",
    }
    words = [word.format(**paths) for word in COMMANDS[command]]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(ROOT / "tests" / "bare.py"), "--debug", command, *words]
    ran = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    if command == "prune":
        assert (tmp_path / "out" / "model.packed.safetensors").exists()
    else:
        assert json.loads(ran.stdout)
    if command == "sparsity":
        assert (tmp_path / "out" / "figures" / "patterns.svg").exists()
    if command == "benchmark":
        said = json.loads(ran.stdout)["machine"]
        assert {"CPU", "instruction sets"} <= said.keys() and (tmp_path / "out" / "figures" / "speedup.svg").exists()


FOR_REPORTS = {"altair", "papermill", "nbformat", "nbconvert", "IPython", "ipywidgets", "datasets", "cpuinfo"}


def test_what_reports_need_is_imported_by_reports_only():
    """When a file is imported; in a function that draws, or reads from the hub, it may be. altair nowhere."""
    for path in (ROOT / "qalib").rglob("*.py"):
        loaded = set()
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            loaded |= {name.partition(".")[0] for name in names}
        room = path.relative_to(ROOT / "qalib").parts[0]
        assert not loaded & ({"altair"} if room in ("report", "site", "teaching") else FOR_REPORTS), path


def test_the_measurement_on_a_gpu_can_be_imported_where_little_is_installed():
    code = "import bare; bare.hide_the_rest(); from qalib.benchmark.gpu import __main__ as gpu; print(list(gpu.PARTS))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "'training'" in ran.stdout, ran.stderr


@pytest.mark.parametrize(
    "code", ["import qalib.benchmark, qalib.model, qalib.report", "import qalib.cli as c; c.app([])"]
)
def test_nothing_heavy_is_loaded_by_rooms_or_help(code):
    code = f"import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.endswith("False\n") and ("Usage" in ran.stdout) == ("cli" in code), ran.stderr


@pytest.fixture
def without_cpuinfo(monkeypatch, tmp_path):
    """A function that gives the processor's specs where py-cpuinfo is not installed and Linux says a text."""

    def specs(text):
        monkeypatch.setitem(sys.modules, "cpuinfo", None)
        monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
        if text:
            (tmp_path / "cpuinfo").write_text(text)
        machine._processor.cache_clear()
        return machine.specs.__wrapped__()

    yield specs
    machine._processor.cache_clear()


def test_the_processor_without_py_cpuinfo(without_cpuinfo):
    found = without_cpuinfo("processor : 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_bf16\n")
    assert found["CPU"] == "Some CPU" and found["instruction sets"] == "avx2 avx512_bf16"


def test_the_processor_that_nothing_tells_of(without_cpuinfo):
    found = without_cpuinfo("")
    assert found["CPU"] == found["instruction sets"] == "not known: py-cpuinfo is not installed"
    assert found["types in hardware"] == "fp32"
