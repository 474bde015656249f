"""The controller holds the density to the schedule, and goes on from its state as if nothing had happened."""

import math

import pytest
import torch

from qalib.model import bert, checkpoint
from qalib.pruning.controller import MAX_LOG_GAIN, DensityController
from qalib.pruning.pruner import Pruner
from qalib.pruning.schedule import Schedule

SCHEDULE = Schedule(0.3, warmup=0.1, ramp_end=0.5, freeze_at=0.7)


@pytest.fixture
def controlled(dense_folder):
    """A function that makes a controller over scores that are drawn around a mean."""

    def make(mean: float = 0.0) -> DensityController:
        pruner = Pruner(checkpoint.load(dense_folder).model, (4, 4))
        torch.manual_seed(3)
        for scores in pruner.scores:
            scores.values.data.normal_(mean)
        return DensityController(pruner, SCHEDULE, base_weight=10.0)

    return make


def test_the_density_stays_near_the_schedule(controlled):
    controller = controlled()
    for step in range(41):
        controller.update(step / 40)
        away = abs(controller.pruner.density() - controller.target_density())
        assert away <= SCHEDULE.margin_at(step / 40) + 0.001
    assert controller.regularization_weight == 0 and controller.regularization() == 0.0  # the mask is frozen


@pytest.mark.parametrize("edge", ["warmup", "ramp_end", "freeze_at"])
def test_a_step_beside_an_edge_of_the_schedule(controlled, edge):
    controller, point = controlled(), getattr(SCHEDULE, edge)
    for progress in (math.nextafter(point, 0), point, math.nextafter(point, 1)):
        controller.update(progress)
        away = abs(controller.pruner.density() - controller.target_density())
        assert away <= SCHEDULE.margin_at(progress) + 0.001


@pytest.mark.parametrize("ffn", ["block", "hybrid"])
def test_equal_scores_do_not_cost_density(dense_folder, ffn):
    """The largest blocks of equal scores stay, zero ones go first, and going on changes nothing."""
    model = checkpoint.load(dense_folder).model
    bert.matrices(model)[0].linear.weight.data[:32] = 0  # half of layer 0's query
    pruner = Pruner(model, (4, 4), ffn)
    pruner.scores[0].values.data[:8] = 5.0  # high, for blocks that are zero
    pruner.scores[1].values.data[:, 0] = 1.0
    controller = DensityController(pruner, SCHEDULE)
    step = max(scores.weights for scores in pruner.scores) / sum(pruner.dense_sizes)
    for progress in (0.7, 0.9, 1.0):
        controller.update(progress)
        assert 0.3 - step < pruner.density() <= 0.3 and pruner.scores[1].kept[:, 0].all()
        assert not pruner.scores[0].kept[:8].any() and pruner.scores[2].kept.any()
    assert controller.threshold == pruner.scores[0].threshold == 0.0


@pytest.mark.parametrize(("mean", "direction"), [(4.0, 1), (-8.0, -1)])
def test_regularization_grows_while_too_much_is_kept_and_shrinks_while_too_little(controlled, mean, direction):
    controller, gains = controlled(mean), []
    for step in range(4, 21):
        controller.update(step / 40)
        gains.append(direction * controller.log_gain)
    assert gains == sorted(gains) and gains[-1] == MAX_LOG_GAIN
    assert controller.regularization_weight == pytest.approx(10 * math.exp(direction * MAX_LOG_GAIN))
    term = controller.regularization_weight * controller.pruner.mean_sigmoid().item()
    assert controller.regularization().item() == pytest.approx(term)


def test_it_goes_on_from_its_state(controlled):
    undisturbed, before = controlled(), controlled()
    for step in range(20):
        undisturbed.update(step / 40)
        before.update(step / 40)
    resumed = controlled()
    resumed.load_state_dict(before.state_dict())
    assert resumed.pruner.density() == before.pruner.density() < 1
    for step in range(20, 30):
        undisturbed.update(step / 40)
        resumed.update(step / 40)
        assert resumed.state_dict() == undisturbed.state_dict()
