"""The wheel, made of the source distribution and installed where there is nothing else of the repository."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from qalib.utils.paths import BUNDLED, NOTEBOOKS

SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "qalib", "notebooks", "models")
NOT_BUILT = shutil.ignore_patterns("*.so", "__pycache__", ".ipynb_checkpoints")
SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


def run(*command, cwd, fails=False):
    """What a command prints (what it complains of if it fails), run without the repository and without compiling."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    given = clean | {"QALIB_KERNEL": "no", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=given, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is built from the source distribution."""
    pytest.importorskip("pip")
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = ROOT / name
        (shutil.copy if path.is_file() else shutil.copytree)(path, source / name, **(
            {} if path.is_file() else {"ignore": NOT_BUILT}))  # fmt: skip
    archive = out / run(sys.executable, "-c", SDIST, out, cwd=source).splitlines()[-1]
    assert not [name for name in tarfile.open(archive).getnames() if name.endswith(".so")]
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
        "--wheel-dir", out, archive, cwd=out)  # fmt: skip
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of an environment with the wheel, and what it needs from this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet", "--no-deps", "--no-index",
        wheel, cwd=folder)  # fmt: skip
    where = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    (Path(where.strip()) / "others.pth").write_text("\n".join(others))
    return programs


def test_the_wheel_holds_notebooks_and_model_and_nothing_built_by_hand(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in (NOTEBOOKS, BUNDLED):
        kept = [path for path in folder.rglob("*") if path.is_file() and ".ipynb_checkpoints" not in path.parts]
        assert {f"qalib/repository/{path.relative_to(ROOT).as_posix()}" for path in kept} <= set(names)
    assert "qalib/py.typed" in names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or "/." in name]
    assert {name.split("/")[0] for name in names} == {"qalib", "qalib-0.1.0.dist-info"}


def test_an_answer_from_an_empty_folder(installed, tmp_path):
    context = "The Eiffel Tower stands in Paris. It was built by Gustave Eiffel."
    said = run(installed / "qalib", "answer", "Where does the Eiffel Tower stand?", context, "--json", cwd=tmp_path)
    assert "Paris" in json.loads(said)["answers"][0]["answer"]
    assert list(tmp_path.iterdir()) == []


def test_the_report_finds_its_notebooks(installed, tmp_path):
    code = "from qalib.utils.paths import *; print(PACKAGE, *sorted(NOTEBOOKS.rglob('[0-9]*.ipynb')), sep='\\n')"
    package, *found = map(Path, run(installed / "python", "-c", code, cwd=tmp_path).splitlines())
    assert ROOT not in package.parents and all(package in path.parents for path in found)
    assert [path.name for path in found] == [path.name for path in sorted(NOTEBOOKS.rglob("[0-9]*.ipynb"))]
    said = run(installed / "python", "-m", "qalib.site", "site", cwd=tmp_path, fails=True)
    assert "the site is made in a clone of the repository" in said
