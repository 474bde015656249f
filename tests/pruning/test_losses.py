"""The losses against sums worked out in float64, and their mixture."""

import pytest
import torch

from qalib.pruning.losses import answer_loss, distillation_loss, training_losses


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
