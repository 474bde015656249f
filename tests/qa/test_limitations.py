from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from qalib.model import checkpoint
from qalib.qa import limitations, squad, windows
from qalib.utils.paths import EVERYDAY


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoint.load("bundled").tokenizer


class Stereotype(nn.Module):
    """Gives the tokens of the occupations held mostly by women 3 more, at the start, where the text says "she"."""

    def __init__(self, tokenizer, gain):
        super().__init__()
        self.gain, self.she = gain, tokenizer.convert_tokens_to_ids("she")
        self.names = {tokenizer(women)["input_ids"][1] for women, _ in limitations.PAIRS}

    def forward(self, input_ids, **_):
        before = input_ids.roll(-1, 1)  # the answer starts at the article
        chosen = torch.tensor([[int(i) in self.names for i in row] for row in before]).float()
        starts = self.gain * chosen * (input_ids == self.she).any(1, keepdim=True)
        return SimpleNamespace(start_logits=starts, end_logits=torch.zeros_like(starts))


@pytest.mark.parametrize("gain", [3.0, -2.0, 0.0])
def test_the_shift_of_a_model_whose_stereotype_is_known(tokenizer, gain):
    shifts = limitations.pronoun_shifts(Stereotype(tokenizer, gain), tokenizer)
    assert shifts["shift"].tolist() == [gain] * len(limitations.PAIRS)
    answers = pd.DataFrame({"question": ["Q?", "R?"], "answer": ["a", "b"], "right": [True, False]})
    found = limitations.summary(answers, shifts)
    assert found.pronoun_shift == gain and found.stereotyped_pairs == (10 if gain > 0 else 0)
    assert (found.everyday_asked, found.everyday_right, found.everyday_wrong) == (2, 1, 'R? "b"')
    assert set(vars(limitations.summary(answers, shifts, scored=False)).values()) == {None}


def test_the_logits_of_an_occupation_are_those_of_its_first_and_last_token(tokenizer):
    context = limitations.CONTEXT.format("hairdresser", "housekeeper", "He")
    window = windows.windows(tokenizer, [limitations.QUESTION], [context])[0]
    positions = torch.arange(float(len(window)))
    for name in ("hairdresser", "housekeeper"):
        sum_of_both = limitations._span_logit(name, context, window, positions, 1000 * positions)
        first, last = int(sum_of_both % 1000), int(sum_of_both // 1000)
        start, end = window.offsets[first - window.first][0], window.offsets[last - window.first][1]
        assert context[start:end].lower() == f"the {name}"


def test_everyday_questions_are_asked_and_held_against_their_references(tokenizer):
    questions = squad.read(EVERYDAY)
    assert len(questions) == 20 and all(
        q.context[start : start + len(text)] == text
        for q in questions
        for text, start in zip(q.answers, q.starts, strict=True)
    )
    answers = limitations.everyday(checkpoint.load("bundled").model, tokenizer)
    assert list(answers.question) == [q.question for q in questions]
    for row in answers.itertuples():
        assert row.right == (row.answer in row.references) or row.right  # EM forgives case and articles
    assert answers.right.any() and not answers.right.all()
