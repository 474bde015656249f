"""The repository itself: pins, notebooks, what is said of them."""

import ast
import importlib
import re
import tomllib

import nbformat
import pytest
from conftest import ROOT

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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_says_how_long_a_notebook_takes(path):
    node = nbformat.read(path, as_version=4)
    text, metadata = node.cells[0].source, node.metadata
    if "course" in metadata:
        cells = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
        exercises = sum(map(int, re.findall(r"^\*\*\d+\.\*\* \*\(\w+, (\d+) minutes", cells, re.MULTILINE)))
        assert exercises > 0
        assert f"*About {metadata['course']['minutes']} minutes to read, and {exercises} for the exercises.*" in text
    else:
        seconds = int(re.search(r"\*Runs in about (\d+) seconds on two cores", text)[1])
        assert abs(seconds - metadata["qalib"]["seconds"]) <= 10


def test_the_index_leads_to_the_three_paths_before_anything_else():
    cells = nbformat.read(ROOT / "notebooks" / "index.ipynb", as_version=4).cells
    links = re.findall(r"\]\(([^)]+)\)", cells[0].source)
    assert {"../README.md", "01_load_model.ipynb", "course/01_weights.ipynb"} <= set(links)
    assert "`exercises/`" in cells[0].source and not any("![" in cell.source for cell in cells[:-1])


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


def test_the_map_in_the_readme_is_the_one_that_imports_are_held_to():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    names = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    block = (ROOT / "README.md").read_text().split("## The package\n")[1].split("```")[1]
    assert [line.split()[0] for line in block.strip().splitlines()] == names
    assert contract["exhaustive"] and len(contract["layers"]) <= 8 and len(names) <= 11
