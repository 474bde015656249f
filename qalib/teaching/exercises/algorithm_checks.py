"""Checks of algorithms: inputs to try a student's function on, what the package makes of them, and known mistakes.

A mistake is told by its outputs: a function that gives on all inputs what the mistake gives has made it.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from qalib.teaching.exercises import answers
from qalib.utils.errors import one_line

Case = dict[str, Any]


@dataclass(frozen=True)
class Algorithm:
    """What a student's function is held against: `call` of it has to give what `right` gives of each case's values.

    `said` is said of a right one. `mistakes` are functions like `right` by what to say of them; `remark` may have a
    word for other wrong outputs, and `limit` for a function that is right and does too much.
    """

    said: str
    right: Callable[..., Any]
    cases: list[Case]
    mistakes: dict[str, Callable[..., Any]]
    call: Callable[..., Any] = lambda function, *values: function(*values)
    remark: Callable[..., str | None] = lambda found, expected, case: None
    limit: Callable[..., str | None] = lambda function: None


def verdict(algorithm: Algorithm, function: Any) -> str | None:
    """What is wrong of a function; None if nothing is, and an empty text if it is not written yet."""
    if not callable(function):
        return f"expected a function, found {type(function).__name__}"
    if unwritten(function):
        return ""
    outputs = []
    for case in algorithm.cases:
        try:
            output = algorithm.call(function, *_copies(case))
        except Exception as error:
            return f"with {_described(case)} it raises {one_line(error)}{_line(error)}"
        if output is None or output is ...:
            return "it returns nothing; is a `return` missing?"
        try:
            outputs.append(_tensors(output))
        except Exception:  # whatever numpy or torch raises of something else
            return f"with {_described(case)} it returns {type(output).__name__}, which is not a tensor"
    rights = [_tensors(algorithm.right(*_copies(case))) for case in algorithm.cases]
    if _same(outputs, rights):
        return algorithm.limit(function)
    for text, mistake in algorithm.mistakes.items():
        if _made(mistake, outputs, algorithm.cases):
            return text
    for case, found, expected in zip(algorithm.cases, outputs, rights, strict=True):
        if not _same([found], [expected]):
            return f"with {_described(case)}: {algorithm.remark(found, expected, case) or _difference(found, expected)}"
    return None


def _made(mistake: Callable[..., Any], outputs: list[list[Tensor]], cases: list[Case]) -> bool:
    return all(_same([found], [_tensors(mistake(*_copies(case)))]) for case, found in zip(cases, outputs, strict=True))


def _tensors(output: Any) -> list[Tensor]:
    return [answers.tensor(part) for part in (output if isinstance(output, tuple) else (output,))]


def _same(found: list[list[Tensor]], expected: list[list[Tensor]]) -> bool:
    return all(
        len(mine) == len(theirs) and all(map(answers.equal, mine, theirs))
        for mine, theirs in zip(found, expected, strict=True)
    )


def _difference(found: list[Tensor], expected: list[Tensor]) -> str:
    if len(found) != len(expected):
        return f"it returns {len(found)} values, expected {len(expected)}"
    return next(answers.difference(*pair) for pair in zip(found, expected, strict=True) if not answers.equal(*pair))


def _copies(case: Case) -> list[Any]:
    """A case's values for one call, which may write over them."""
    return [value.clone() if isinstance(value, Tensor) else _copy(value) for value in case.values()]


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _described(case: Case) -> str:
    parts = [f"{name} {tuple(v.shape) if hasattr(v, 'shape') else v}" for name, v in case.items()]
    return ", ".join(parts)


def _empty():
    """Only documented, as what students are given is."""


def unwritten(function: Any) -> bool:
    """Does its body, or that of its `forward`, hold nothing but a docstring?"""
    function = getattr(function, "forward", function)
    if (code := getattr(function, "__code__", None)) is None:
        return False
    return code.co_code == _empty.__code__.co_code and {*code.co_consts} <= {function.__doc__, None, ...}


def _line(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ipython" in frame.filename.lower()]
    return f" in line {frames[-1].lineno} of the cell" if frames else ""
