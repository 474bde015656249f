"""A pruner's masks over a whole model."""

import pytest
import torch

from qalib.model import bert, checkpoint
from qalib.pruning.losses import span_logits
from qalib.pruning.movement import threshold_for_density
from qalib.pruning.pruner import Pruner


@pytest.fixture
def inputs():
    """A window of twelve tokens."""
    return {
        "input_ids": torch.arange(5, 17)[None],
        "token_type_ids": torch.zeros(1, 12, dtype=torch.long),
        "attention_mask": torch.ones(1, 12, dtype=torch.long),
    }


def test_the_regularizer_is_the_mean_sigmoid_over_weights(dense_folder):
    pruner = Pruner(checkpoint.load(dense_folder).model, (4, 4), ffn="hybrid")
    assert pruner.mean_sigmoid().item() == pytest.approx(0.5)
    with torch.no_grad():
        for scores in pruner.scores:
            scores.values.fill_(-30 if scores.values.shape[1] == 1 else 0)
    assert pruner.mean_sigmoid().item() == pytest.approx(0.25)  # FFN: half the weights, though not half the scores


def test_masks_leave_the_model_as_it_was_until_something_is_pruned(dense_folder, inputs):
    model = checkpoint.load(dense_folder).model
    before = span_logits(model, **inputs)
    pruner = Pruner(model, (4, 4)).eval()
    assert torch.equal(pruner(**inputs), before)
    assert pruner.density() == 1


def test_rows_go_with_their_columns(dense_folder, inputs):
    pruner = Pruner(checkpoint.load(dense_folder).model, (4, 4), ffn="hybrid").eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for scores in pruner.scores:
            scores.values.normal_()
    pruner.set_threshold(threshold_for_density(*pruner.flat_scores(), 0.3))
    before, density, kept = pruner(**inputs), pruner.density(), [s.kept.sum().item() for s in pruner.scores]
    model = pruner.apply_masks()
    assert density == pytest.approx(0.3, abs=0.005)
    assert torch.allclose(span_logits(model, **inputs), before, atol=1e-5)  # though neurons changed places
    for layer, neurons in zip(bert.layers(model), kept[4::5], strict=True):
        assert (layer.intermediate.dense.weight != 0).any(1).nonzero().flatten().tolist() == list(range(neurons))
        assert (layer.output.dense.weight != 0).any(0).nonzero().flatten().tolist() == list(range(neurons))
        assert bert.neurons_removable(layer).sum() == 128 - neurons
