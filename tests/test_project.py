"""The repository itself: pins, notebooks, what is said of them."""

import ast
import importlib
import re
import tomllib
from graphlib import TopologicalSorter

import nbformat
import pytest
from conftest import ROOT

import qalib

NOTEBOOKS = sorted(
    path for path in (ROOT / "notebooks").rglob("[0-9]*.ipynb") if ".ipynb_checkpoints" not in path.parts
)


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("name", ["environment.yml", "environment-gpu.yml"])
def test_environments_have_the_same_pins(name):
    text = (ROOT / name).read_text()
    named = dict(re.findall(r"- ([\w-]+)==(\S+)", text))
    assert {"transformers", "datasets", "jupyterlab", "matplotlib", "pandas", "papermill"} <= named.keys()
    assert all(pins()[name] == version for name, version in named.items())
    if "gpu" in name:  # whichever torch of three the machine has
        assert "- torch>=2.11,<2.14\n" in text and "--constraint" not in text
    else:
        assert "--constraint constraints.txt" in text and named["torch"] == pins()["torch"] == "2.13.0"


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + sum((project["optional-dependencies"][k] for k in ("lab", "test")), [])
    pinned = {name.lower().replace("_", "-") for name in pins()}
    for requirement in wanted:
        name = re.match(r"[\w-]+", requirement).group().lower().replace("_", "-")
        assert name in pinned, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks(path):
    node = nbformat.read(path, as_version=4)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert node.cells[0].cell_type == "markdown" and node.cells[0].source.startswith("# ")
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    for cell in code:
        assert cell.outputs == [] and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        tree = ast.parse(cell.source)
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in imported} <= {"qalib", "pandas", "matplotlib", "torch"}


def test_the_index_leads_to_every_notebook():
    node = nbformat.read(ROOT / "notebooks" / "index.ipynb", as_version=4)
    assert {cell.cell_type for cell in node.cells} == {"markdown"}
    links = re.findall(r"\]\(([^)]+)\)", "".join(cell.source for cell in node.cells))
    assert {(ROOT / "notebooks" / link).resolve() for link in links} >= set(NOTEBOOKS)
    assert all((ROOT / "notebooks" / link).exists() for link in links)


def test_the_glossary_names_code_and_notebooks_that_exist():
    text = (ROOT / "notebooks" / "glossary.md").read_text()
    entries = dict(entry.split("\n", 1) for entry in text.split("\n## ")[1:])
    wanted = "block mask density sparsity head movement score straight-through distillation compaction EM F1 window"
    assert set(wanted.split()) <= entries.keys() and list(entries) == sorted(entries, key=str.lower)
    for term, entry in entries.items():
        code = re.findall(r"\[`(\w+)\.(\w+)`\]\(\.\./qalib/([\w/]+)\.py\)", entry)
        met = [link for link in re.findall(r"\]\(([^)]+)\)", entry) if link.endswith(".ipynb")]
        assert code and met, term
        for module, name, file in code:
            found = importlib.import_module(f"qalib.{file.replace('/', '.')}")
            package, _, stem = file.rpartition("/")
            called = found if module == stem else importlib.import_module(f"qalib.{package.replace('/', '.')}")
            assert module in (stem, package) and getattr(called, name) is getattr(found, name), f"{module}.{name}"
        assert all((ROOT / "notebooks" / link).exists() for link in met), term


# The layers of the package from the ground up; imports go down only. The README shows them as its map.
LAYERS = (
    {"utils": "errors, files, paths, the machine, processes that share work, quantities with units"},
    {"model": "loading and saving checkpoints, and the BERT made from them"},
    {
        "runtimes": "checkpoint -> faster module: registry, dense, compact, cpu/, gpu/, peers/, and export/ to ONNX",
        "sparsity": "what pruning left: blocks, heads, neurons, parameters, bytes, multiply-adds",
    },
    {"qa": "question sets, windows, answers, exact match and F1"},
    {"pruning": "movement, magnitude and one-shot pruning, and the runs around them"},
    {"benchmark": "latency side by side, over sweeps, and part by part"},
    {"report": "measurements -> tables, figures, card and pages"},
    {
        "teaching": "the course: lessons, and exercises that check themselves",
        "site": "notebooks, course, report, live page and API reference as a website",
        "cli": "commands, options, errors",
    },
)


def imported_packages(path):
    homes = {name: module for module, offered in qalib._PUBLIC.items() for name in offered}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "qalib":
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            yield from (homes.get(name, name).split(".")[0] for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("qalib."))


def test_no_import_goes_up():
    layer = {package: number for number, packages in enumerate(LAYERS) for package in packages}
    root = ROOT / "qalib"
    top = {path.stem for path in root.iterdir() if path.name != "__pycache__"}
    assert top == layer.keys() | {"__init__", "__main__"} and len(top) <= 13 and len(LAYERS) <= 8
    for path in root.rglob("*.py"):
        package = path.relative_to(root).parts[0].removesuffix(".py")
        if package.startswith("__"):
            continue
        for other in imported_packages(path):
            if other != package:
                assert layer[other] < layer[package], f"{path} imports {other}"


def test_no_circle_within_a_package():
    for package in (path for path in (ROOT / "qalib").rglob("*") if (path / "__init__.py").exists()):
        name = ".".join(package.relative_to(ROOT).parts)
        uses = {}
        for path in package.glob("[!_]*.py"):
            names = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == name:
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(name + "."):
                    names.add(node.module.removeprefix(name + ".").split(".")[0])
            uses[path.stem] = names
        list(TopologicalSorter(uses).static_order())  # raises CycleError


def test_the_map_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    width = max(len(package) for packages in LAYERS for package in packages) + 2
    lines = [f"{package:{width}}{what}" for packages in reversed(LAYERS) for package, what in packages.items()]
    assert "\n".join(lines) in readme, "\n".join(lines)
