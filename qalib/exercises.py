"""Exercises: a verdict on an answer, and the students' version of a notebook.

In a notebook a cell tagged `solution` assigns the answer to a name, and a cell tagged `check` hands that to `check`.
What is right, and which mistakes are typical, stands in `solutions`.

>>> check("density", 0.25, weight=torch.eye(4))
Right: density is kept weights / all weights.
>>> check("density", 0.75, weight=torch.eye(4))
Not yet: that is the sparsity, the share that is gone
>>> check("density", ..., weight=torch.eye(4))
Not answered yet.
"""

import ast
import copy
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbformat import NotebookNode
from torch import Tensor

from qalib.errors import InputError
from qalib.files import write_text
from qalib.solutions import EXERCISES

TEACHING = Path(__file__).resolve().parent.parent / "notebooks" / "teaching"
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


def check(name: str, answer: Any, **given: Any) -> Verdict:
    """Hold an answer (a number, a truth value or a tensor) against the exercise's.

    Raises InputError for an exercise that does not exist.
    """
    if name not in EXERCISES:
        raise InputError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    if answer is ...:
        return Verdict(False, "Not answered yet.")
    if any(value is ... for value in given.values()):
        return Verdict(False, "Not yet: this stands on an exercise before it that is not answered")
    right, mistakes = EXERCISES[name](**given)
    try:
        found, expected = torch.as_tensor(answer).double(), torch.as_tensor(right).double()
    except (TypeError, ValueError, RuntimeError):
        return Verdict(False, f"Not yet: a number or a tensor is asked for, not {type(answer).__name__}")
    if _equal(found, expected):
        said = " ".join(EXERCISES[name].__doc__.split())
        return Verdict(True, f"Right: {said[0].lower()}{said[1:]}")
    for text, wrong in mistakes.items():
        if _equal(found, torch.as_tensor(wrong).double()):
            return Verdict(False, f"Not yet: {text}")
    if found.shape != expected.shape:
        return Verdict(False, f"Not yet: the shape is {tuple(found.shape)}, expected {tuple(expected.shape)}")
    if found.ndim:
        wrong = int((~torch.isclose(found, expected, rtol=1e-3, atol=1e-6)).sum())
        return Verdict(False, f"Not yet: the shape is right, {wrong:,} of {found.numel():,} values are not")
    return Verdict(False, f"Not yet: {float(found):.6g} is not the value, which is {_order(found, expected)}")


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(torch.isclose(found, expected, rtol=1e-3, atol=1e-6).all())


def _order(found: Tensor, expected: Tensor) -> str:
    return "larger" if expected > found else "smaller"


def student(notebook: NotebookNode) -> NotebookNode:
    """A copy of a notebook in which the cells tagged `solution` assign `...` to the same names; checks stay."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if "solution" in cell.metadata.get("tags", []):
            names = [target.id for node in ast.parse(cell.source).body for target in node.targets]
            cell.source = f"{names[-1]} = ...  # your turn"
            cell.metadata["tags"] = ["exercise"]
    return made


def write(out: Path | str = "exercises", source: Path = TEACHING) -> list[Path]:
    """Write the students' versions of the teaching notebooks to a folder; links lead to where they led.

    An exercise that is there already is left alone: somebody may have worked in it.
    """
    written = []
    for path in sorted(source.glob("[0-9]*.ipynb")):
        made, target = student(nbformat.read(path, as_version=4)), Path(out) / path.name
        for cell in made.cells:
            if cell.cell_type == "markdown":
                cell.source = LINK.sub(lambda m: f"]({_moved(m[1], source, Path(out))})", cell.source)
        if not target.exists():
            written.append(write_text(target, nbformat.writes(made) + "\n"))
    return written


def _moved(link: str, source: Path, out: Path) -> str:
    inside = "/" not in link or ":" in link
    return link if inside else Path(os.path.relpath(source.resolve() / link, out.resolve())).as_posix()


if __name__ == "__main__":
    for written_path in write(*sys.argv[1:2]):
        print(written_path)
