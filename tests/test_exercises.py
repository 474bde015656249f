import ast

import nbformat
import pandas as pd
import pytest
import torch

from qalib.teaching import exercises
from qalib.teaching.solutions import EXERCISES
from qalib.utils import paths
from qalib.utils.errors import InputError

NOTEBOOKS = sorted(paths.COURSE.glob("[0-9]*.ipynb"))
TINY = {"questions": 4, "keep_fractions": [0.9, 0.6], "batch": 1, "length": 16, "repeats": 1, "layer": 1, "steps": 2,
        "train": 4, "counts": [2]}  # fmt: skip


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


SPARSE = random(8, 8) * torch.tensor([[1.0, 0, 1, 1, 0, 1, 1, 1]])
GIVEN = {
    "density": {"weight": SPARSE},
    "largest_tenth": {"weight": SPARSE},
    "head_rows": {"weight": random(8, 8), "heads": 4, "head": 3},
    "block_scores": {"weight": random(8, 8), "block": (4, 4)},
    "block_mask": {"scores": random(4, 4), "count": 3},
    "bound": {"work": {"dense": torch.tensor([6.0, 2]), "compact": torch.tensor([3.0, 2]), "sparse": torch.ones(2)}},
    "amdahl": {"share": 0.8, "factor": 10},
    "score_gradient": {"weight": random(8, 8), "gradient": random(8, 8, 1)[..., 0], "block": (4, 4)},
    "second_step": {"rate": 0.25, "start": (1.0, 0.1), "best": (0.4, 0.6)},
    "removable": {"value": torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1], [1, 1], [1, 1]]), "heads": 3},
    "constant": {"output": random(4, 4), "bias": random(4), "rows": slice(0, 2)},
    "soft_targets": {"logits": random(5), "temperature": 4},
    "divergence": {"teacher": random(5).softmax(0), "student": (2 * random(5)).softmax(0)},
    "saving": {"file": 372_600_000, "original": 435_600_000},
    "overall": {"kept": 30, "pruned": 100, "others": 50},
}


def test_every_exercise_stands_in_one_notebook():
    names = []
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        checks = [cell.source for cell in cells if "check" in cell.metadata.get("tags", [])]
        solutions = [cell.source for cell in cells if "solution" in cell.metadata.get("tags", [])]
        assert len(checks) == len(solutions) >= 1, path.name
        names += [ast.literal_eval(ast.parse(check).body[0].value.args[0]) for check in checks]
    assert sorted(names) == sorted(EXERCISES) == sorted(GIVEN)


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
    assert repr(exercises.check(name, "no", **given)) == "Not yet: a number or a tensor is asked for, not str"
    assert repr(exercises.check(name, ..., **given)) == "Not answered yet."
    assert "**Right:**" in verdict._repr_markdown_()


def test_wrong_answers_without_a_name_say_how_they_are_wrong():
    given = GIVEN["block_scores"]
    assert "the shape is (3,), expected (2, 2)" in repr(exercises.check("block_scores", torch.ones(3), **given))
    assert "4 of 4 values are not" in repr(exercises.check("block_scores", torch.ones(2, 2), **given))
    assert "which is larger" in repr(exercises.check("amdahl", 0.5, **GIVEN["amdahl"]))
    assert "stands on an exercise before" in repr(exercises.check("block_mask", random(4, 4), scores=..., count=3))
    with pytest.raises(InputError, match="no exercise 'sums'; there are density, "):
        exercises.check("sums", 1)


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
            answer = ast.parse(last).body[-1].targets[0].id
            verdict = eval(cell.source, names)
            assert repr(verdict) == "Not answered yet." if version is not node else verdict.right, verdict
            if version is node:
                wrong = torch.as_tensor(names[answer]).double() + 17
                assert not eval(cell.source, names | {answer: wrong}).right


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem[:2] in ("01", "02", "04", "05")], ids=lambda p: p.stem)
def test_on_the_bundled_model_every_mistake_shows(path):
    """A head that is empty, or a bias of zeros, would make wrong answers right."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    tags = [cell.metadata.get("tags", []) for cell in code]
    first, seen = tags.index(["solution"]), []
    names = {"note": lambda name, answer, **given: seen.append((name, answer, given))}
    for cell in [*code[:2], *code[first - 1 :]]:  # what stands between takes minutes
        exec(cell.source.replace("teaching.exercises.check(", "note("), names)
    assert len(seen) == tags.count(["solution"])
    for name, answer, given in seen:
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
                        (right.T, "rows and columns"), (-right, "that is minus the answer"), (1.5, "not one number"),
                        (right / 0 * 0, "4 of 4 values are nan")):  # fmt: skip
        assert said in repr(exercises.check("block_scores", wrong, **scores))
    assert "the answer is empty" in repr(exercises.check("density", [], **GIVEN["density"]))
    assert "not a tensor of shape (1,)" in repr(exercises.check("density", [0.5], **GIVEN["density"]))
    assert "run the cells from the top" in repr(exercises.check("block_mask", right, scores="mine", count=2))


def test_the_students_version(tmp_path):
    written = exercises.write(tmp_path / "a" / "exercises")
    assert [path.name for path in written] == [path.name for path in NOTEBOOKS]
    for path, source in zip(written, NOTEBOOKS, strict=True):
        text, node = path.read_text(), nbformat.read(path, as_version=4)
        nbformat.validate(node)
        original = nbformat.read(source, as_version=4)
        solutions = [cell.source for cell in original.cells if "solution" in cell.metadata.get("tags", [])]
        assert text.count("...  # your turn") == len(solutions)
        assert not [s for s in solutions if s in [cell.source for cell in node.cells]]
        checks = [[c.source for c in n.cells if "check" in c.metadata.get("tags", [])] for n in (original, node)]
        assert checks[0] == checks[1]
        for cell in node.cells:
            for link in exercises.LINK.findall(cell.source) if cell.cell_type == "markdown" else ():
                assert (path.parent / link).exists(), link
    written[0].write_text("my work")
    assert exercises.write(tmp_path / "a" / "exercises") == [] and written[0].read_text() == "my work"
