"""Grading: what nbgrader has to know of a student's notebook (its cell metadata, version 3).

An exercise becomes a cell to be filled in, its check a locked test with points: 1 for an easy one, 2 for a medium
one, 3 for a hard one. A test that does not raise has all its points, so that a check asserts its verdict.
"""

import ast
import copy
import re

from nbformat import NotebookNode

POINTS = {"easy": 1, "medium": 2, "hard": 3}
DIFFICULTY = re.compile(rf"\*\*\d+\.\*\* \*\(({'|'.join(POINTS)}),")


def graded(notebook: NotebookNode, name: str) -> NotebookNode:
    """A copy of a student's notebook (`exercises.student`), called `name`, with the metadata."""
    made, points, number = copy.deepcopy(notebook), 0, 0
    for cell in made.cells:
        tags = cell.metadata.get("tags", [])
        if said := DIFFICULTY.findall(cell.source):
            points, number = POINTS[said[-1]], number + 1
        if "exercise" in tags:
            cell.metadata["nbgrader"] = _metadata(f"{name}-{number}-answer", solution=True)
        elif "check" in tags:
            call = ast.unparse(ast.parse(cell.source).body[-1])
            cell.source = f"verdict = {call}\nassert verdict.right, verdict\nverdict"
            cell.metadata["nbgrader"] = _metadata(f"{name}-{number}-check", grade=True, locked=True, points=points)
    return made


def _metadata(grade_id: str, **said: bool | int) -> dict:
    plain = {"grade": False, "locked": False, "solution": False, "task": False}
    return {"schema_version": 3, "grade_id": grade_id} | plain | said
