"""Checks: a verdict on a student's answer.

In a notebook a cell tagged `solution` assigns the answer to a name, and a cell tagged `check` passes it to `check`; an
earlier cell passes the exercise's inputs to `give`. Right answers and common mistakes are in `solutions` for numbers,
in `mask_checks`, `training_checks` and `compression_checks` for functions.

>>> check("density", 0.25, weight=torch.eye(4))
Right: density is kept weights / all weights.
>>> check("density", 0.75, weight=torch.eye(4))
Not yet: that is the sparsity, the share that is gone
>>> check("density", ..., weight=torch.eye(4))
Not answered yet.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qalib.teaching.exercises import algorithm_checks, answers, compression_checks, mask_checks, training_checks
from qalib.teaching.exercises.solutions import EXERCISES
from qalib.utils.errors import InputError, one_line

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
        return Verdict(False, f"Not yet: expected a number or a tensor, found {type(answer).__name__}")
    if answers.equal(found, expected):
        return _right(str(EXERCISES[name].__doc__))
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
