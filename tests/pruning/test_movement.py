"""Scores and masks against cases worked out by hand."""

import pytest
import torch

from qalib.model import blocks
from qalib.pruning.movement import Mask, Scores, threshold_for_density


def test_mask_of_a_hand_made_case():
    scores = Scores((2, 2), weights=4)
    scores.values.data = torch.tensor([[-3.0, 0.0], [-2.0, 5.0]])
    scores.threshold = torch.logit(torch.tensor(0.1)).item()  # -2.197
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert Mask(scores)(torch.ones(4, 4)).tolist() == expected
    assert Mask(scores, transposed=True)(torch.ones(4, 4)).tolist() == torch.tensor(expected).T.tolist()


@pytest.mark.parametrize("threshold", [-1.0, 0.5])
def test_gradient_of_a_score(threshold):
    """dL/dS = sum over the block of dL/dW' * W, for kept and for pruned blocks; dL/dW is 0 in the pruned ones."""
    torch.manual_seed(0)
    linear, inputs, out = torch.nn.Linear(6, 4, bias=False), torch.randn(5, 6), torch.randn(5, 4)
    weight = linear.weight.detach().clone()
    scores = Scores((2, 2), weights=6)
    scores.values.data = torch.tensor([[0.0, 1.0], [2.0, -2.0]])
    scores.threshold = threshold
    torch.nn.utils.parametrize.register_parametrization(linear, "weight", Mask(scores))
    (linear(inputs) * out).sum().backward()
    by_hand = out.T @ inputs  # dL/dW'
    assert torch.allclose(scores.values.grad, (blocks.split(by_hand * weight, (2, 3))).sum((2, 3)), atol=1e-5)
    kept = blocks.expand(scores.kept, (2, 3))
    assert torch.allclose(linear.parametrizations.weight.original.grad, by_hand * kept, atol=1e-5)


@pytest.mark.parametrize(("density", "threshold"), [(1.0, -torch.inf), (0.8, 1.0), (0.75, 1.0), (0.2, 4.0)])
def test_a_threshold_keeps_at_most_the_density(density, threshold):
    assert threshold_for_density(torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.ones(4), density) == threshold


def test_a_threshold_counts_weights():
    assert threshold_for_density(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([6.0, 2.0, 2.0]), 0.8) == 1.0
