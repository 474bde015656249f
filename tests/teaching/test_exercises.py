import ast
import re
from decimal import Decimal
from fractions import Fraction

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from qalib import teaching
from qalib.teaching import exercises
from qalib.teaching.exercises import checks, notebooks
from qalib.teaching.exercises.solutions import EXERCISES
from qalib.utils import paths
from qalib.utils.errors import InputError

NOTEBOOKS = sorted(paths.COURSE.glob("[0-9]*.ipynb"))
TINY = {"questions": 4, "keep_fractions": [0.9, 0.6], "batch": 1, "length": 16, "repeats": 1, "layer": 1, "steps": 2,
        "train": 4, "counts": [2], "seeds": 2, "measured": 4, "lots": 20}  # fmt: skip


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


SPARSE = random(8, 8) * torch.tensor([[1.0, 0, 1, -1, 0, 1, -1, -1]])
GIVEN = {
    "density": {"weight": SPARSE},
    "largest_tenth": {"weight": SPARSE},
    "head_rows": {"weight": random(8, 8), "heads": 4, "head": 3},
    "block_scores": {"weight": random(8, 8), "block": (4, 4)},
    "block_mask": {"weight": random(8, 16), "block": (2, 4), "count": 6},
    "multiply_add_ratio": {
        "work": {"dense": torch.tensor([6.0, 2]), "compact": torch.tensor([3.0, 2]), "sparse": torch.ones(2)}
    },
    "amdahl": {"share": 0.8, "factor": 10},
    "score_gradient": {"weight": random(8, 8), "gradient": random(8, 8, 1)[..., 0], "block": (4, 4)},
    "second_step": {"rate": 0.25, "start": (1.0, 0.1), "best": (0.4, 0.6)},
    "removable": {"value": torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1], [1, 1], [1, 1]]), "heads": 3},
    "constant": {"output": random(4, 4), "bias": random(4), "rows": slice(0, 2)},
    "soft_targets": {"logits": random(5), "temperature": 4},
    "divergence": {"teacher": random(5).softmax(0), "student": (2 * random(5)).softmax(0)},
    "saving": {"file": 372_600_000, "original": 435_600_000},
    "overall": {"kept": 30, "pruned": 100, "others": 50},
    "cheapest": {"costs": torch.tensor([3.0, 1, 12, 2]), "cut": torch.tensor([10, 1, 30, 1])},
    "pattern_bits": {"kept": 2, "group": 8},
    "left_behind": {"column": random(3, 6), "mean": random(6), "gone": random(6, 1)[:, 0] > 0},
    "int8_bytes": {"rows": 64, "columns": 96, "kept": 3, "block": (32, 32)},
}


def test_every_exercise_stands_in_one_notebook():
    names, asked = [], re.compile(r"\*\*\d\.\*\* \*\((easy|medium|hard), \d+ minutes: to .+\)\*")
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        exercises_ = [cell.source for cell in cells if re.search(r"^\*\*\d\.\*\*", cell.source, re.MULTILINE)]
        assert all(asked.search(text) for text in exercises_)  # how hard, how long, and what for
        checked = [cell.source for cell in cells if "check" in cell.metadata.get("tags", [])]
        solutions = [cell.source for cell in cells if "solution" in cell.metadata.get("tags", [])]
        assert len(checked) == len(solutions) == len(exercises_) >= 1, path.name
        names += [ast.literal_eval(ast.parse(c).body[0].value.args[0]) for c in checked if "exercises.check" in c]
    assert sorted(names) == sorted(EXERCISES | checks.ALGORITHMS) == sorted([*GIVEN, *checks.ALGORITHMS])


@pytest.mark.parametrize("name", GIVEN)
def test_an_answer_is_right_or_it_is_said_why_not(name):
    given = GIVEN[name]
    right, mistakes = EXERCISES[name](**given)
    verdict = exercises.check(name, right, **given)
    assert verdict.right and repr(verdict).startswith("Right: ") and mistakes
    for text, wrong in mistakes.items():
        assert repr(exercises.check(name, wrong, **given)) == f"Not yet: {text}"
    shifted = torch.as_tensor(right).double() + 17
    assert not exercises.check(name, shifted, **given).right
    assert repr(exercises.check(name, "no", **given)) == "Not yet: expected a number or a tensor, found str"
    assert repr(exercises.check(name, ..., **given)) == "Not answered yet."
    assert "**Right:**" in verdict._repr_markdown_()


def test_wrong_answers_without_a_name_say_how_they_are_wrong():
    given = GIVEN["block_scores"]
    assert "the shape is (3,), expected (2, 2)" in repr(exercises.check("block_scores", torch.ones(3), **given))
    assert "4 of 4 values are not" in repr(exercises.check("block_scores", torch.ones(2, 2), **given))
    assert "which is larger" in repr(exercises.check("amdahl", 0.5, **GIVEN["amdahl"]))
    with pytest.raises(InputError, match="no exercise 'sums'; there are density, "):
        exercises.check("sums", 1)


def all_of(kind, answers):
    return [pytest.param(kind, answer, id=f"{kind} {number}") for number, answer in enumerate(answers)]


SCORES, MASK = (EXERCISES[name](**GIVEN[name])[0] for name in ("block_scores", "block_mask"))
SHARE = EXERCISES["density"](SPARSE)[0]  # 3/4
ORDER = GIVEN["block_mask"]["weight"].reshape(4, 2, 4, 4).transpose(1, 2).square().sum((-1, -2)).flatten().argsort()
FORMS = [
    lambda x: x, lambda x: x.numpy(), lambda x: x.double().numpy(), lambda x: x.tolist(), lambda x: x.float(),
    lambda x: x.clone().contiguous(), lambda x: x[None], lambda x: x[..., None], lambda x: x[None, ..., None].numpy(),
    lambda x: pd.DataFrame(x.numpy()), lambda x: np.array(x.tolist()), lambda x: np.asfortranarray(x.numpy()),
    lambda x: tuple(map(tuple, x.tolist())), lambda x: x.clone().float().requires_grad_(), lambda x: x.to_sparse(),
    lambda x: np.array(x.tolist(), dtype=object), lambda x: x.T.clone().T, lambda x: x.float() * (1 + 1e-5),
    lambda x: np.ma.array(x.numpy()), lambda x: x.double() + 1e-8, lambda x: np.float32(x.numpy()),
]  # fmt: skip
NUMBERS = [
    SHARE, 3 / 4, 0.75, np.float64(0.75), np.float32(0.75), np.array(0.75), np.array([0.75]), torch.tensor(0.75),
    torch.tensor([0.75]), torch.tensor([[0.75]]), [0.75], (0.75,), [[0.75]], Fraction(3, 4), Decimal("0.75"),
    pd.Series([0.75]), pd.DataFrame([0.75]), 0.7499999, 0.7500001, torch.tensor(0.75, requires_grad=True),
    (SPARSE != 0).float().mean(), np.count_nonzero(SPARSE.numpy()) / 64, 1 - (SPARSE == 0).double().mean(),
]  # fmt: skip
WRONG_NUMBERS = [
    0.25, 75, 0.7, 0.8, 1, 0, -0.75, 7.5, 0.0075, 48, 16, 4 / 3, 0.5, 0.375, 0.74, 0.76, float("nan"),
    float("inf"), [0.75, 0.75], [0.75, 0.25], torch.full((8, 8), 0.75), torch.tensor([0.25]), True, "0.75",
    (SPARSE > 0).float().mean(),
]  # fmt: skip
LAZY_NUMBERS = [
    None, "", "three quarters", [], {}, print, SPARSE, SPARSE != 0, (SPARSE != 0).sum(), 0, 1, lambda: 0.75,
]  # fmt: skip
WRONG_SCORES = [
    SCORES**2, 4 * SCORES, SCORES / 4, -SCORES, SCORES.T, SCORES.flatten(), SCORES[0], SCORES.mean(),
    SCORES.max(), 100 * SCORES, SCORES / 100, SCORES + 1, SCORES.log(), SCORES.round(), SCORES.round(decimals=1),
    SCORES * 1.01, SCORES.flip(0), SCORES.flip(1), torch.stack([SCORES, SCORES]), SCORES[:, :1], SCORES / 0 * 0,
    SCORES > 1, SCORES.sort().values - SCORES,
]  # fmt: skip
LAZY_SCORES = [
    None, 0, 1.0, torch.ones(2, 2), torch.zeros(2, 2), torch.rand(2, 2), random(8, 8), [], "scores", print,
    [[1, 2], [3, 4]],
]  # fmt: skip
WRONG_MASKS = [
    ~MASK, MASK.T, MASK.flatten(), MASK[0], MASK.flip(0), MASK.flip(1), MASK | True, MASK & False, MASK.nonzero(),
    MASK.sum(), 6, *((ORDER.argsort() >= 16 - n).view(4, 4) for n in (1, 4, 5, 7, 8, 15)),
    (ORDER.argsort() < 6).view(4, 4), 2 * MASK, -1 * MASK, ORDER[-6:], MASK.repeat_interleave(2, 0),
    MASK.repeat_interleave(2, 0).repeat_interleave(4, 1),
]  # fmt: skip
LAZY_MASKS = [
    None, True, False, [], "kept", print, torch.ones(4, 4), torch.zeros(4, 4), torch.eye(4),
    torch.rand(4, 4) < 0.4, (torch.arange(16) < 6).view(4, 4), GIVEN["block_mask"]["weight"] > 0,
]  # fmt: skip
RIGHT = {
    "density": NUMBERS,
    "block_scores": [form(SCORES) for form in FORMS],
    "block_mask": [form(MASK) for form in FORMS],
}
WRONG = {"density": WRONG_NUMBERS, "block_scores": WRONG_SCORES, "block_mask": WRONG_MASKS}
LAZY = {"density": LAZY_NUMBERS, "block_scores": LAZY_SCORES, "block_mask": LAZY_MASKS}


@pytest.mark.parametrize(("name", "answer"), [case for name in RIGHT for case in all_of(name, RIGHT[name])])
def test_no_right_answer_is_refused(name, answer):
    verdict = exercises.check(name, answer, **GIVEN[name])
    assert verdict.right, verdict


@pytest.mark.parametrize(
    ("name", "answer"), [case for kind in (WRONG, LAZY) for name in kind for case in all_of(name, kind[name])]
)
def test_no_wrong_or_lazy_answer_is_accepted(name, answer):
    verdict = exercises.check(name, answer, **GIVEN[name])
    assert not verdict.right and repr(verdict).startswith("Not yet: ")


def test_there_are_enough_answers():
    for answers, least in ((RIGHT, 20), (WRONG, 20), (LAZY, 10)):
        assert all(len(tried) >= least for tried in answers.values())


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("density", (SPARSE > 0).float().mean(), "count all but zeros"),
        ("density", 0.7, "close: give more digits"),
        ("density", 0.76, "is not the value"),
        ("block_scores", random(8, 8).reshape(2, 4, 2, 4).abs().mean((1, 3)), "mean absolute value"),
        ("block_scores", SCORES.round(decimals=2), "close: give more digits"),
        ("block_mask", (ORDER.argsort() >= 11).view(4, 4), "that keeps 5, expected 6"),
        ("block_mask", (ORDER.argsort() >= 8).view(4, 4), "that marks 8, expected 6"),
        ("block_mask", (ORDER.argsort() < 6).view(4, 4), "that keeps the smallest"),
        ("divergence", EXERCISES["divergence"](**GIVEN["divergence"])[0] / 5, "reduction 'mean'"),
        ("divergence", EXERCISES["divergence"](**GIVEN["divergence"])[0] / np.log(2), "not log2"),
    ],
)
def test_a_mistake_has_its_word(name, answer, hint):
    assert hint in repr(exercises.check(name, answer, **GIVEN[name]))


def test_inputs_in_numpy_are_inputs():
    weight = GIVEN["block_mask"]["weight"].numpy()
    assert exercises.check("block_mask", MASK.numpy(), weight=weight, block=(2, 4), count=6).right


def test_what_is_done_to_an_input_changes_nothing():
    weight = SPARSE.clone()
    exercises.give("density", weight=weight)
    weight.fill_(1)
    assert exercises.check("density", 0.75).right and not exercises.check("density", 1.0).right
    checks._GIVEN.clear()
    assert "run the cells above first" in repr(exercises.check("density", 0.75))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_teacher_and_student_run_through_the_notebook(path, packed_folder, asked_file):
    """The solution is right, another answer is wrong, and a student who has not answered anything can run all cells."""
    node = nbformat.read(path, as_version=4)
    given = TINY | {"model": str(packed_folder), "audited": str(packed_folder), "data": str(asked_file)}
    for version in (node, exercises.student(node)):
        names, last = {}, None
        for cell in (cell for cell in version.cells if cell.cell_type == "code"):
            tags = cell.metadata.get("tags", [])
            if "check" not in tags:
                exec(cell.source, names)
                names |= {name: value for name, value in given.items() if "parameters" in tags and name in names}
                last = cell.source
                continue
            node_ = ast.parse(last).body[-1]
            answer = node_.targets[0].id if isinstance(node_, ast.Assign) else node_.name
            verdict = eval(cell.source, names)
            assert repr(verdict) == "Not answered yet." if version is not node else verdict.right, verdict
            if version is node and callable(names[answer]):
                assert not eval(cell.source, names | {answer: lambda *values: values[0]}).right
            elif version is node:
                wrong = torch.as_tensor(names[answer]).double() + 17
                assert not eval(cell.source, names | {answer: wrong}).right


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.stem[:2] in ("01", "02", "04", "05", "12")], ids=lambda p: p.stem
)
def test_on_the_bundled_model_every_mistake_shows(path):
    """A head that is empty, or a bias of zeros, would make wrong answers right."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    tags = [cell.metadata.get("tags", []) for cell in code]
    first, seen = tags.index(["solution"]), []
    names = {"note": lambda name, answer: seen.append((name, answer))}
    for cell in [*code[:2], *code[first - 1 :]]:  # what stands between takes minutes
        exec(cell.source.replace("teaching.exercises.check(", "note("), names)
    assert len(seen) == tags.count(["solution"])
    for name, answer in (pair for pair in seen if pair[0] in EXERCISES):
        given = checks._GIVEN[name]
        right, mistakes = EXERCISES[name](**given)
        assert exercises.check(name, answer, **given).right
        for text, wrong in mistakes.items():
            assert repr(exercises.check(name, wrong, **given)) == f"Not yet: {text}"
        for wrong in (torch.zeros_like, torch.ones_like):
            assert not exercises.check(name, wrong(torch.as_tensor(right)), **given).right


def test_whatever_is_answered_a_verdict_returns():
    things = [None, "", [], {}, print, 1j, 10**400, [[1], [1, 2]], float("nan"), float("inf"), pd.DataFrame([1.5]),
              torch.ones(2, 2, requires_grad=True), torch.ones(2, 2).to_sparse(), torch.tensor([])]  # fmt: skip
    for name, given in GIVEN.items():
        for thing in things:
            verdict = exercises.check(name, thing, **given)
            assert not verdict.right and repr(verdict).startswith("Not yet: ")
    scores = GIVEN["block_scores"]
    right = EXERCISES["block_scores"](**scores)[0]
    for wrong, said in ((right.flatten(), "the shape is (4,), expected (2, 2)"), (100 * right, "a hundred times"),
                        (right.T, "rows and columns"), (-right, "that is minus the answer"), (1.5, "found one number"),
                        (right / 0 * 0, "4 of 4 values are nan")):  # fmt: skip
        assert said in repr(exercises.check("block_scores", wrong, **scores))
    assert "the answer is empty" in repr(exercises.check("density", [], **GIVEN["density"]))
    assert "expected one number, found a tensor of shape (2,)" in repr(
        exercises.check("density", [0.5, 1], **GIVEN["density"])
    )
    assert "run the cells from the top" in repr(exercises.check("block_mask", right, weight="mine", block=1, count=2))


def test_the_students_version(tmp_path):
    written = exercises.write(tmp_path / "a" / "exercises")
    assert [path.name for path in written] == [path.name for path in NOTEBOOKS]
    for path, source in zip(written, NOTEBOOKS, strict=True):
        text, node = path.read_text(), nbformat.read(path, as_version=4)
        nbformat.validate(node)
        original = nbformat.read(source, as_version=4)
        solutions = [cell.source for cell in original.cells if "solution" in cell.metadata.get("tags", [])]
        two = "StraightThrough = teaching.algorithms.StraightThrough" in solutions  # forward and backward
        assert text.count("...  # your turn") == len(solutions) + two
        assert not [s for s in solutions if s in [cell.source for cell in node.cells]] and "algorithms." not in text
        checks = [[c.source for c in n.cells if "check" in c.metadata.get("tags", [])] for n in (original, node)]
        assert checks[0] == checks[1]
        for cell in node.cells:
            for link in notebooks.LINK.findall(cell.source) if cell.cell_type == "markdown" else ():
                assert (path.parent / link).exists(), link
    written[0].write_text("my work")
    assert exercises.write(tmp_path / "a" / "exercises") == [] and written[0].read_text() == "my work"


def test_what_nbgrader_is_told(tmp_path):
    """Its schema (version 3): a solution cell and a locked test for each exercise, ids that are no others', points."""
    ids = []
    for path in exercises.write(tmp_path, nbgrader=True):
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if "nbgrader" in cell.metadata]
        told = [cell.metadata["nbgrader"] for cell in cells]
        assert all(
            set(m) - {"points"} == {"schema_version", "grade_id", "grade", "locked", "solution", "task"} for m in told
        )
        assert [m["solution"] for m in told] == [True, False] * (len(told) // 2)
        assert all(m["grade"] and m["locked"] and m["points"] in (1, 2, 3) for m in told[1::2])
        ids += [m["grade_id"] for m in told]
        names = {"teaching": teaching}
        for cell in (c for c in cells[1::2] if "magnitude_mask" in c.source):
            exec(cell.source, names | {"magnitude_mask": teaching.algorithms.magnitude_mask})
            with pytest.raises(AssertionError, match="Not answered yet."):
                exec(cell.source, names | {"magnitude_mask": ...})
    assert len(set(ids)) == len(ids) == 2 * len(EXERCISES | checks.ALGORITHMS) + 4 and all(
        re.fullmatch(r"[\w-]+", i) for i in ids
    )
