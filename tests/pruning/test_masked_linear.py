"""The masked layer that skips pruned blocks, against a mask as nothing but a parametrization."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from qalib.pruning.masked_linear import MaskedLinear
from qalib.pruning.movement import Mask, Scores
from qalib.runtimes.cpu import instruction_sets

HALF = torch.bfloat16


def pair(transposed=False):
    """The same layer twice: masked, and with the mask as a parametrization of nn.Linear, and their scores."""
    torch.manual_seed(0)
    scores = Scores((3, 2) if transposed else (2, 3), weights=256)
    scores.values.data = torch.arange(6.0).view_as(scores.values)
    linear = nn.Linear(48, 32)
    both = []
    for make in (MaskedLinear.of, lambda layer, mask: parametrize.register_parametrization(layer, "weight", mask)):
        mine = copy.deepcopy(scores)
        both.append((make(copy.deepcopy(linear), Mask(mine, transposed)), mine))
    return both


def step(layer, scores, x, dy):
    layer.zero_grad()
    scores.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", HALF, enabled=dy.dtype == HALF):
        y = layer(x)
    y.backward(dy)
    return y, x.grad, layer.parametrizations.weight.original.grad, layer.bias.grad, scores.values.grad


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_step_is_that_of_the_parametrization_while_the_mask_moves(dtype, transposed):
    both, x, dy = pair(transposed), torch.randn(2, 9, 48), torch.randn(2, 9, 32, dtype=dtype)
    for threshold in (-1.0, 1.5, 3.5, 0.5, 9.0):
        results = []
        for layer, scores in both:
            scores.threshold = threshold
            results.append(step(layer, scores, x, dy))
        for ours, theirs in zip(*results, strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            assert (ours - theirs).norm() <= (1e-2 if dtype == HALF else 1e-6) * theirs.norm()


@pytest.mark.skipif(instruction_sets.best((16, 16), torch.float32) == "torch", reason="the operator is not there")
def test_pruned_blocks_are_skipped_where_that_pays():
    (layer, scores), _ = pair()
    scores.threshold = 1.5
    assert "_MaskedProduct" in type(layer(torch.randn(3, 48)).grad_fn).__name__
    scores.threshold = -1.0  # nothing is pruned
    assert "Addmm" in type(layer(torch.randn(3, 48)).grad_fn).__name__
