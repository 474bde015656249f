"""The algebra of optimal brain surgery, held against brute force."""

import pytest
import torch

from qalib.pruning import surgery


@pytest.fixture(params=[(4, 4), (1, 4), (8, 1)], ids=str)
def layer(request):
    """Inputs that go together, shape (300, 16), a weight (8, 16), and the block."""
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(16, 16, generator=generator, dtype=torch.double)
    x = torch.randn(300, 16, generator=generator, dtype=torch.double) @ mixture
    return x, torch.randn(8, 16, generator=generator, dtype=torch.double), request.param


def fitted(x, weight, kept, block):
    """The least squares by torch's own solver, row by row, and the squared error of each row."""
    result, errors = torch.zeros_like(weight), torch.zeros(len(weight), dtype=weight.dtype)
    for row in range(len(weight)):
        columns = kept[row // block[0]].repeat_interleave(block[1]).nonzero()[:, 0]
        outputs = x @ weight[row]
        if len(columns):
            result[row, columns] = torch.linalg.lstsq(x[:, columns], outputs).solution
        errors[row] = (outputs - x @ result[row]).square().sum() / len(x)
    return result, errors


def grid(weight, block):
    return torch.ones(weight.shape[0] // block[0], weight.shape[1] // block[1], dtype=torch.bool)


def test_the_fit_is_the_least_squares_over_the_kept_blocks(layer):
    x, weight, block = layer
    kept = torch.rand(grid(weight, block).shape, generator=torch.Generator().manual_seed(1)) < 0.5
    kept[0] = False
    products = x.T @ x / len(x)
    found = surgery.least_squares(weight @ products, products, kept, block)
    torch.testing.assert_close(found, fitted(x, weight, kept, block)[0])


def test_a_block_costs_the_rise_of_the_squared_error_after_a_refit(layer):
    x, weight, block = layer
    products, kept = x.T @ x / len(x), grid(weight, block)
    kept[0, 1] = False
    start, before = fitted(x, weight, kept, block)
    costs = surgery.removal_costs(start, products, kept, block)
    assert costs[0, 1] == torch.inf
    for row, left in enumerate(kept):
        error, highest = before.view(len(kept), -1).sum(1)[row], 0.0
        for _ in range(int(left.sum())):  # the cheapest by brute force, then the cheapest of what is left
            rises = {}
            for number in left.nonzero()[:, 0].tolist():
                left[number] = False
                rises[number] = (fitted(x, weight, kept, block)[1].view(len(kept), -1).sum(1)[row] - error).item()
                left[number] = True
            number = min(rises, key=rises.get)
            highest = max(highest, rises[number])
            assert costs[row, number].item() == pytest.approx(highest, rel=1e-6)
            error, left[number] = error + rises[number], False


def test_no_block_costs_less_than_those_removed_before_it_or_as_much():
    products, kept = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.ones(1, 3).bool()
    costs = surgery.removal_costs(torch.tensor([[1.0, -1.2, 0.1]]), products, kept, (1, 1))
    assert costs[0].argsort().tolist() == [2, 0, 1] and costs[0].isfinite().all()
    ties = surgery.removal_costs(torch.ones(1, 3), torch.eye(3), kept, (1, 1))
    assert ties.unique().numel() == 3 and ties.allclose(torch.ones(3))


def test_only_so_many_blocks_of_a_row_are_priced():
    costs = surgery.removal_costs(torch.tensor([[3.0, 1, 2]]), torch.eye(3), torch.ones(1, 3).bool(), (1, 1), most=2)
    assert costs.tolist() == [[torch.inf, 1, 4]]


def test_neurons_cost_what_their_columns_cost(layer):
    x, weight, _ = layer
    products, curvature = x.T @ x / len(x), torch.rand(8, dtype=torch.double)
    neurons = grid(weight, (8, 1))
    alone = surgery.removal_costs(curvature.sqrt()[:, None] * weight, products, neurons, (8, 1), most=1)
    costs = surgery.neuron_costs(weight, products, curvature)
    assert alone.argmin() == costs.argmin() and alone.min().item() == pytest.approx(costs.min().item())
