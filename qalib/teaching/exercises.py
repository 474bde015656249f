"""Exercises: a verdict on an answer, and the students' version of a notebook.

In a notebook a cell tagged `solution` assigns the answer to a name, and a cell tagged `check` hands that to `check`;
what the exercise is about is handed to `give` before. What is right, and which mistakes are typical, stands in
`solutions` for numbers, in `mask_checks` and `training_checks` for functions.

>>> check("density", 0.25, weight=torch.eye(4))
Right: density is kept weights / all weights.
>>> check("density", 0.75, weight=torch.eye(4))
Not yet: that is the sparsity, the share that is gone
>>> check("density", ..., weight=torch.eye(4))
Not answered yet.
"""

import ast
import copy
import importlib
import inspect
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch
from IPython import get_ipython
from nbformat import NotebookNode

from qalib.teaching import algorithm_checks, answers, compression_checks, mask_checks, training_checks
from qalib.teaching.grading import graded
from qalib.teaching.solutions import EXERCISES, READY
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import write_text
from qalib.utils.paths import COURSE

ALGORITHMS = {
    "magnitude_mask": mask_checks.MAGNITUDE,
    "block_product": mask_checks.BLOCK_PRODUCT,
    "straight_through": training_checks.STRAIGHT_THROUGH,
    "movement_step": training_checks.MOVEMENT_STEP,
    "distillation_loss": training_checks.DISTILLATION,
    "budget": compression_checks.BUDGET,
    "wanda_mask": compression_checks.WANDA,
    "surgery": compression_checks.SURGERY,
    "neuron_scores": compression_checks.NEURONS,
    "quantize": compression_checks.QUANTIZE,
}
WRITTEN = re.compile(r"(teaching\.\w+)\.(\w+)")  # a function that students write, as the notebook names it
LINK = re.compile(r"\]\(([^)#]+)\)")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what is to be said of it. Shows itself in a notebook."""

    right: bool
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        first, mark, rest = self.text.partition(":")
        return f"{'✔' if self.right else '✘'} **{first}{mark}**{rest}"


_GIVEN: dict[str, dict[str, Any]] = {}  # by exercise, what it is about


def give(name: str, **values: Any) -> None:
    """Keep a copy of what an exercise is about, so that nothing that is done to the values changes what is right."""
    _known(name)
    _GIVEN[name] = copy.deepcopy(values)


def check(name: str, answer: Any, **given: Any) -> Verdict:
    """Hold an answer (a number, a truth value, a tensor of torch or numpy, a function) against the exercise's.

    It is about what was handed to `give` unless that is `given` here. Whatever the answer is, a verdict returns. Raises
    InputError for an exercise that does not exist.
    """
    _known(name)
    if answer is ...:
        return Verdict(False, "Not answered yet.")
    if name in ALGORITHMS:
        return _of_function(name, answer)
    if not (given := given or _GIVEN.get(name, {})):
        return Verdict(False, "Not yet: run the cells above first; one of them says what the exercise is about")
    try:
        right, mistakes = EXERCISES[name](**{key: _torch(value) for key, value in given.items()})
    except Exception as error:  # whatever was given
        said = f"{' or '.join(given)} is not what it should be; run the cells from the top again"
        return Verdict(False, f"Not yet: {said} ({one_line(error)})")
    try:
        found, expected = answers.tensor(answer), answers.tensor(right)
    except Exception:  # whatever torch raises of something else
        return Verdict(False, f"Not yet: a number or a tensor is asked for, not {type(answer).__name__}")
    if answers.equal(found, expected):
        if ready := _copied(name):
            return Verdict(False, f"Not yet: that is read from `{ready}`, where it stands ready; compute it")
        return _right(EXERCISES[name].__doc__)
    for text, wrong in mistakes.items():
        if answers.equal(found, answers.tensor(wrong)):
            return Verdict(False, f"Not yet: {text}")
    return Verdict(False, f"Not yet: {answers.difference(found, expected)}")


def _known(name: str) -> None:
    if name not in EXERCISES | ALGORITHMS:
        raise InputError(f"no exercise {name!r}; there are {', '.join(EXERCISES | ALGORITHMS)}")


def _of_function(name: str, function: Any) -> Verdict:
    wrong = algorithm_checks.verdict(ALGORITHMS[name], function)
    if wrong is None:
        return _right(ALGORITHMS[name].said)
    return Verdict(False, f"Not yet: {wrong}" if wrong else "Not answered yet.")


def _right(text: str) -> Verdict:
    said = " ".join(text.split())
    return Verdict(True, f"Right: {said[0].lower()}{said[1:]}")


def _torch(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value


def _copied(name: str) -> str | None:
    """The name from which the answer's cell reads what it should compute, as far as the cells tell that were run."""
    shell = get_ipython()
    cells = [tree for cell in (shell.user_ns.get("In", ()) if shell else ()) if (tree := _parsed(cell))]
    calls = (node for tree in reversed(cells) for node in ast.walk(tree) if isinstance(node, ast.Call))
    handed = next((c.args[1] for c in calls if len(c.args) == 2 and getattr(c.args[0], "value", None) == name), None)
    if isinstance(handed, ast.Name):
        handed = next((tree for tree in reversed(cells) if handed.id in _names(tree, ast.Store)), None)
    read = _names(handed, ast.Load) - _names(handed, ast.Store) if handed else ()  # one's own names are one's own
    return next((ready.lstrip(".") for ready in READY.get(name, ()) if ready in read), None)


def _names(tree: ast.AST, context: type) -> set[str]:
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Name | ast.Attribute) and isinstance(n.ctx, context)]
    return {n.id if isinstance(n, ast.Name) else f".{n.attr}" for n in found}


def _parsed(cell: str) -> ast.Module | None:
    try:
        return ast.parse(cell)
    except SyntaxError:  # what was tried and failed
        return None


def student(notebook: NotebookNode) -> NotebookNode:
    """A copy of a notebook in which the cells tagged `solution` assign `...` to the same names, or begin the function
    that is to be written; checks stay."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if "solution" in cell.metadata.get("tags", []):
            last = ast.parse(cell.source).body[-1]
            name, cell.source = last.targets[0].id, f"{last.targets[0].id} = ...  # your turn"
            if written := WRITTEN.fullmatch(ast.unparse(last.value)):
                module = importlib.import_module(f"qalib.{written[1]}")
                cell.source = _begun(getattr(module, written[2]), name)
            cell.metadata["tags"] = ["exercise"]
    return made


def _begun(algorithm: Any, name: str) -> str:
    """A function or class under a name, with its docstrings and what it imports, and without what it does."""
    tree, module = ast.parse(inspect.getsource(algorithm)), ast.parse(inspect.getsource(inspect.getmodule(algorithm)))
    tree.body[0].name = name
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


if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--nbgrader"]
    for written_path in write(*folders[:1], nbgrader="--nbgrader" in sys.argv):
        print(written_path)
