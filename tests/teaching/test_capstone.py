"""The capstone: one's own pruning run against that of the package, and the class's leaderboard."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from qalib.model import bert, blocks, checkpoint
from qalib.teaching.exercises import capstone, from_scratch
from qalib.utils.errors import InputError


def random_blocks(loaded, questions, config=None):
    density, block = (config.density, config.block) if config else (capstone.DENSITY, loaded.block)
    generator = torch.Generator().manual_seed(1)
    for matrix in bert.matrices(loaded.model):
        weight = matrix.linear.weight.data
        kept = torch.rand(blocks.mask(weight, block).shape, generator=generator) < 0.97 * density
        weight.mul_(blocks.expand(kept, block))
    return loaded.model


def largest_blocks(loaded, questions, config=None):
    density, block = (config.density, config.block) if config else (capstone.DENSITY, loaded.block)
    for matrix in bert.matrices(loaded.model):
        weight = matrix.linear.weight.data
        scores = blocks.split(weight, block).square().sum((-1, -2))
        limit = scores.flatten().sort(descending=True).values[int(density * scores.numel())]
        weight.mul_(blocks.expand(scores > limit, block))
    return loaded.model


@pytest.fixture(scope="module", autouse=True)
def one_run():
    """The package's run is the same for all: made once."""
    made, original = {}, capstone.run.prune

    def once(config, progress):
        if config.seed not in made:
            folder = checkpoint.load(original(config, progress))
            made[config.seed] = folder, folder.model  # read before the folder goes
        return made[config.seed]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capstone.run, "prune", once)
        load = capstone.checkpoint.load
        patch.setattr(capstone.checkpoint, "load", lambda name: name[0] if isinstance(name, tuple) else load(name))
        yield


def test_the_solution_keeps_the_blocks_that_the_package_keeps():
    verdict = capstone.check_mask(from_scratch.prune)
    assert verdict.right and repr(verdict) == "Right: it keeps the 307 of 1,024 blocks that `qalib prune` keeps.", (
        verdict
    )


@pytest.mark.parametrize("lazy", [random_blocks, largest_blocks, lambda loaded, *_: loaded.model])
def test_a_lazy_mask_is_another(lazy):
    verdict = repr(capstone.check_mask(lazy))
    assert verdict.startswith("Not yet: ") and "of the 307 blocks that `qalib prune` keeps are kept" in verdict
    kept = int(verdict.split("(of ")[1].split(";")[0].replace(",", ""))
    assert kept == 1024 or int(verdict.split()[2]) < 0.5 * 307  # clearly fewer, or all that there are


def test_what_a_run_does_is_said():
    assert repr(capstone.check_mask(...)) == repr(capstone.enter("a", ...)) == "Not answered yet."
    assert "ZeroDivisionError" in repr(capstone.check_mask(lambda *_: 1 / 0))
    assert "must return a model, not int" in repr(capstone.check_mask(lambda *_: 1))


@pytest.fixture
def entering(packed_folder, asked_file, tmp_path):
    """A function that enters a way of pruning the tiny model, and the file that it is entered in."""
    board = tmp_path / "leaderboard.jsonl"
    given = {"entries": board, "model": str(packed_folder), "data": str(asked_file), "learnt": 5}
    return lambda name, prune, **more: capstone.enter(name, prune, **given | more), board


def test_a_leaderboard_has_who_keeps_to_the_rules(entering):
    enter, board = entering
    asked = []

    def spying(loaded, questions):
        asked.extend(questions.questions)
        return largest_blocks(loaded, questions)

    assert repr(enter("Ada", spying)).startswith("Right: entered with F1 ") and len(asked) == 5
    entry = json.loads(board.read_text())
    assert entry["name"] == "Ada" and entry["questions"] == 3 and entry["density"] <= 0.2 and 0 <= entry["f1"] <= 100
    assert not enter("Eve", lambda loaded, questions: loaded.model).right  # as dense as it was
    assert "at most 0.2 is allowed" in repr(enter("Eve", lambda loaded, questions: loaded.model))
    assert "0 are allowed" in repr(enter("Eve", largest_blocks, seconds=0))

    def hiding(loaded, questions):  # weights where nobody looks
        loaded.model.extra = torch.nn.Linear(4, 4)
        return largest_blocks(loaded, questions)

    assert "extra" in repr(enter("Eve", hiding)) and board.read_text().count("\n") == 1
    assert enter("Bob", random_blocks).right
    table = capstone.leaderboard(board)
    assert set(table.name) == {"Ada", "Bob"} and table.f1.is_monotonic_decreasing
    board.write_text(board.read_text() + "half a li")
    with pytest.raises(InputError, match="leaderboard.jsonl: line 3 is not an entry: 'half a li'"):
        capstone.leaderboard(board)


def _fill(path, name):
    for number in range(25):
        capstone.append(path, {"name": name, "f1": number, "text": "x" * 3000})


def test_lines_of_many_at_once_stay_whole(tmp_path):
    board = tmp_path / "leaderboard.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_fill, [board] * 4, "abcd"))
    table = capstone.leaderboard(board)
    assert len(table) == 100 and (table.groupby("name").size() == 25).all()
