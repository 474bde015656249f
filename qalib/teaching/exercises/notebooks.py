"""Students' notebooks: the course without its solutions, with the checks.

A cell tagged `solution` becomes one that assigns `...`, or the start of the function to be written.
"""

import ast
import copy
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any, cast

import nbformat
from nbformat import NotebookNode

from qalib import teaching
from qalib.teaching.exercises.grading import graded
from qalib.utils.files import write_text
from qalib.utils.paths import COURSE

WRITTEN = re.compile(r"teaching\.(\w+)\.(\w+)")  # a function that students write, as the notebook names it
LINK = re.compile(r"\]\(([^)#]+)\)")


def student(notebook: NotebookNode) -> NotebookNode:
    """A copy of a notebook in which the cells tagged `solution` assign `...` to the same names, or begin the function
    that is to be written; checks stay."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if "solution" in cell.metadata.get("tags", []):
            last = ast.parse(cell.source).body[-1]
            name, cell.source = last.targets[0].id, f"{last.targets[0].id} = ...  # your turn"
            if written := WRITTEN.fullmatch(ast.unparse(last.value)):
                cell.source = _begun(getattr(getattr(teaching, written[1]), written[2]), name)
            cell.metadata["tags"] = ["exercise"]
    return made


def _begun(algorithm: Any, name: str) -> str:
    """A function or class under a name, with its docstrings and what it imports, and without what it does."""
    tree, module = (ast.parse(inspect.getsource(of)) for of in (algorithm, sys.modules[algorithm.__module__]))
    cast(ast.FunctionDef | ast.ClassDef, tree.body[0]).name = name
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imports = [node for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)]
    needed = [ast.unparse(node) for node in imports if used & {alias.asname or alias.name for alias in node.names}]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [node.body[0], ast.Expr(ast.Constant(...))]
    body = ast.unparse(tree).replace("    ...", "    ...  # your turn")
    return "\n".join([*needed, "", "", body] if needed else [body])


def write(out: Path | str = "exercises", source: Path = COURSE, nbgrader: bool = False) -> list[Path]:
    """Write the students' versions of the teaching notebooks to a folder; links lead to where they led.

    With `nbgrader` its metadata are in them.

    An exercise that is there already is left alone: somebody may have worked in it.
    """
    written = []
    for path in sorted(source.glob("[0-9]*.ipynb")):
        made, target = student(nbformat.read(path, as_version=4)), Path(out) / path.name
        for cell in made.cells:
            if cell.cell_type == "markdown":
                cell.source = LINK.sub(lambda m: f"]({_moved(m[1], source, Path(out))})", cell.source)
        if nbgrader:
            made = graded(made, path.stem)
        if not target.exists():
            written.append(write_text(target, nbformat.writes(made) + "\n"))
    return written


def _moved(link: str, source: Path, out: Path) -> str:
    inside = "/" not in link or ":" in link
    return link if inside else Path(os.path.relpath(source.resolve() / link, out.resolve())).as_posix()
