"""Windows with their answers."""

import pytest
from builders import towns

from qalib.model import checkpoint
from qalib.pruning import dataset
from qalib.qa.squad import Question
from qalib.utils.errors import InputError


def test_answer_positions(dense_folder):
    tokenizer = checkpoint.load(dense_folder).tokenizer
    context = "In 1700 the town of Adler built lighthouse 0."
    question = Question("a", "", "Which town?", context, ("Adler", "town"), (20, 12))
    data = dataset.SquadDataset([question], tokenizer)
    (first, last), window = data.positions[0], data.windows[0]
    assert (window.offsets[first - window.first][0], window.offsets[last - window.first][1]) == (20, 25)
    batch = data.collate([0])
    assert batch["input_ids"].shape[1] % dataset.PAD_TO_MULTIPLE_OF == 0
    assert batch["positions"].tolist() == [[first, last]]
    long = Question("b", "", "Which town?", "word " * 600 + "Adler.", ("Adler",), (3000,))
    positions = dataset.SquadDataset([long], tokenizer).positions
    assert positions[0].tolist() == [0, 0]
    assert (positions[-1] > 0).all()


def test_an_answer_that_is_not_there(dense_folder):
    question = Question("a", "", "Which town?", "In Adler.", ("Adler",), (2,))
    with pytest.raises(InputError, match="question 'a': 'Adler' is not at character 2 of its context"):
        dataset.SquadDataset([question], checkpoint.load(dense_folder).tokenizer)


def test_the_hash_is_that_of_the_windows(dense_folder):
    tokenizer, questions = checkpoint.load(dense_folder).tokenizer, towns(6)
    hashes = [dataset.SquadDataset(some, tokenizer).sha256 for some in (questions, questions, questions[::-1])]
    assert hashes[0] == hashes[1] != hashes[2]
