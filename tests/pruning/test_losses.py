"""The losses against sums worked out in float64, and their mixture."""

import pytest
import torch

from qalib.pruning.losses import answer_loss, distillation_loss, hidden_loss, training_losses


def test_distillation_against_float64():
    torch.manual_seed(1)
    student, teacher = torch.randn(3, 2, 7) * 3, torch.randn(3, 2, 7) * 3
    student[:, :, 5:] = teacher[:, :, 5:] = torch.finfo(torch.float32).min  # padding
    expected = 0.0
    rows = [logits[..., :5].reshape(6, 5).double() for logits in (teacher, student)]
    for pair in zip(*rows, strict=True):
        p, q = (torch.exp(row / 2) / torch.exp(row / 2).sum() for row in pair)
        expected += (p * (p.log() - q.log())).sum().item() * 4 / 6
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert distillation_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_answers_and_teacher_are_mixed():
    torch.manual_seed(2)
    student, teacher, positions = torch.randn(3, 2, 7), torch.randn(3, 2, 7), torch.tensor([[0, 1], [2, 3], [4, 6]])
    batch = dict.fromkeys(("input_ids", "token_type_ids", "attention_mask"), None) | {"positions": positions}
    losses = training_losses(lambda **_: student, lambda _: teacher, batch, alpha=0.7, temperature=3.0)
    parts = answer_loss(student, positions), distillation_loss(student, teacher, 3.0)
    assert (losses["answer_loss"], losses["distillation_loss"]) == parts
    assert losses["loss"].item() == pytest.approx((0.3 * parts[0] + 0.7 * parts[1]).item())
    assert training_losses(lambda **_: student, None, batch, alpha=0).keys() == {"answer_loss", "loss"}  # nobody asked


def test_hidden_states_against_float64():
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 3, 5, 4), 7 * torch.randn(2, 3, 5, 4)  # two layers
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    lengths, ratios = mask.sum(1), []
    for mine, theirs in zip(student.double(), teacher.double(), strict=True):
        rows = [(m[:n], t[:n]) for m, t, n in zip(mine, theirs, lengths, strict=True)]
        ratios.append(sum((m - t).pow(2).sum() for m, t in rows) / sum(t.pow(2).sum() for _, t in rows))
    assert hidden_loss(student, teacher, mask).item() == pytest.approx(sum(ratios).item() / 2)
    assert hidden_loss(teacher, teacher, mask) == 0
    assert hidden_loss(torch.zeros_like(teacher), teacher, mask).item() == pytest.approx(1)


def test_hidden_states_join_the_mixture():
    torch.manual_seed(4)
    logits, hidden = torch.randn(2, 3, 2, 5), torch.randn(2, 6, 3, 5, 4)  # of student and teacher
    batch = dict.fromkeys(("input_ids", "token_type_ids"), None)
    batch |= {"positions": torch.tensor([[0, 1], [2, 3], [4, 4]]), "attention_mask": torch.ones(3, 5)}
    outputs = [(logits[i], tuple(hidden[i])) for i in range(2)]
    for alpha in (0.0, 0.6):
        losses = training_losses(lambda hidden_states, **_: outputs[0], lambda _: outputs[1], batch, alpha, 2.0, 3.0)
        plain = training_losses(lambda **_: logits[0], lambda _: logits[1], batch, alpha)
        assert losses["hidden_loss"] == hidden_loss(*hidden, batch["attention_mask"])
        assert losses["loss"].item() == pytest.approx((plain["loss"] + 3 * losses["hidden_loss"]).item())
