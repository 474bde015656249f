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

from qalib.teaching.solutions import EXERCISES
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import write_text
from qalib.utils.paths import COURSE

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
    """Hold an answer (a number, a truth value or a tensor) against the exercise's; whatever it is, a verdict returns.

    Raises InputError for an exercise that does not exist.
    """
    if name not in EXERCISES:
        raise InputError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    if answer is ...:
        return Verdict(False, "Not answered yet.")
    if any(value is ... for value in given.values()):
        return Verdict(False, "Not yet: this stands on an exercise before it that is not answered")
    try:
        right, mistakes = EXERCISES[name](**given)
    except Exception as error:  # the names that an exercise stands on are the student's, who may have changed them
        said = f"{' or '.join(given)} is not what it should be; run the cells from the top again"
        return Verdict(False, f"Not yet: {said} ({one_line(error)})")
    try:
        found, expected = _tensor(answer), _tensor(right)
    except Exception:  # whatever torch raises of something else
        return Verdict(False, f"Not yet: a number or a tensor is asked for, not {type(answer).__name__}")
    if _equal(found, expected):
        said = " ".join(EXERCISES[name].__doc__.split())
        return Verdict(True, f"Right: {said[0].lower()}{said[1:]}")
    for text, wrong in mistakes.items():
        if _equal(found, _tensor(wrong)):
            return Verdict(False, f"Not yet: {text}")
    return Verdict(False, f"Not yet: {_difference(found, expected)}")


def _tensor(value: Any) -> Tensor:
    found = torch.as_tensor(value).detach().to_dense()
    if found.is_complex():
        raise TypeError("complex")
    return found.double()


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool(torch.isclose(found, expected, rtol=1e-3, atol=1e-6).all())


def _difference(found: Tensor, expected: Tensor) -> str:
    """How a wrong answer is wrong that no exercise has a word for."""
    if not found.numel():
        return "the answer is empty"
    if not expected.ndim and found.ndim:
        return f"one number is asked for, not a tensor of shape {tuple(found.shape)}"
    if expected.ndim and not found.ndim:
        return f"a tensor of shape {tuple(expected.shape)} is asked for, not one number"
    if expected.ndim == 2 and _equal(found, expected.T):
        return "rows and columns are interchanged"
    if found.shape != expected.shape:
        return f"the shape is {tuple(found.shape)}, expected {tuple(expected.shape)}"
    for text, factor in (("a hundred times", 100), ("a hundredth of", 0.01), ("minus", -1)):
        if _equal(found, factor * expected):
            return f"that is {text} the answer" + ("" if factor < 0 else ": percent and fractions are mixed up")
    if nans := int(found.isnan().sum()):
        what = f"{nans:,} of {found.numel():,} values are" if found.ndim else "the answer is"
        return f"{what} nan, not a number: something was divided by zero, or the logarithm of zero taken"
    if found.ndim:
        wrong = int((~torch.isclose(found, expected, rtol=1e-3, atol=1e-6)).sum())
        return f"the shape is right, {wrong:,} of {found.numel():,} values are not"
    return f"{float(found):.6g} is not the value, which is {'larger' if expected > found else 'smaller'}"


def student(notebook: NotebookNode) -> NotebookNode:
    """A copy of a notebook in which the cells tagged `solution` assign `...` to the same names; checks stay."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if "solution" in cell.metadata.get("tags", []):
            names = [target.id for node in ast.parse(cell.source).body for target in node.targets]
            cell.source = f"{names[-1]} = ...  # your turn"
            cell.metadata["tags"] = ["exercise"]
    return made


def write(out: Path | str = "exercises", source: Path = COURSE) -> list[Path]:
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
