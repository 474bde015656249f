"""What the later notebooks of the course measure: sensitivity and budgets, patterns, neurons, fewer bits."""

import pytest
import torch

from qalib import sparsity
from qalib.model import bert, blocks
from qalib.teaching.lessons import algorithms, heads, inputs, int8, neurons, patterns, sensitivity
from qalib.utils.errors import InputError


@pytest.fixture
def measured(sparse, asked):
    return sensitivity.measure(sparse, asked, (0.5, 0.75), progress=False)


def test_each_matrix_is_cut_by_itself(sparse, asked, measured):
    found = bert.matrices(sparse.model)
    assert len(measured) == 2 * len(found) and measured.level.tolist()[:2] == [0.75, 0.5]
    assert (measured.divergence >= -1e-6).all() and measured.divergence.max() > 1e-6
    alive = [int(blocks.mask(matrix.linear.weight.detach(), sparse.block).sum()) for matrix in found]
    assert measured.blocks.tolist()[::2] == alive
    cut = sensitivity.shares_pruned(sparse, {3: 0.5})
    changed = [not torch.equal(old.linear.weight, new.linear.weight)
               for old, new in zip(found, bert.matrices(cut.model), strict=True)]  # fmt: skip
    assert [number for number, moved in enumerate(changed) if moved] == [3]
    prices, taken = sensitivity.costs(measured)
    assert prices.shape == taken.shape == (len(found), 2) and (torch.diff(prices) >= 0).all()
    assert taken[:, 1].tolist() == [n - n // 2 for n in alive]


def test_budgets_of_one_size_are_shared_out_in_three_ways(sparse, asked, measured):
    table = sensitivity.compare(sparse, measured, asked, [0.8], progress=False)
    assert table.way.tolist() == [*sensitivity.WAYS] and (table.low <= table.high).all()
    whole = sparsity.density(sparse, (1, 1))
    assert ((table.density < whole) & (table.density > 0.5 * whole)).all()
    plan = sensitivity.by_sensitivity(measured, 0.8)
    gone = sum(n - int(plan[number] * n) for number, n in measured.groupby("matrix").blocks.first().items())
    assert gone >= int(0.2 * measured.groupby("matrix").blocks.first().sum())
    sums = sensitivity.added_up(sparse, measured, asked, 0.8).nats
    assert sums.iloc[0] >= 0 and sums.iloc[1] > 0
    assert "times as much as" in sensitivity.plot_sensitivity(measured, 0.8).title
    assert sensitivity.plot_budgets(table, 50).title.startswith("F1 at ")


def test_what_measures_is_not_asked(asked):
    measuring, others = sensitivity.apart(asked, 3, 4)
    assert len(measuring) == 3 and len(others) == 4
    assert not {q.id for q in measuring.questions} & {q.id for q in others.questions}
    with pytest.raises(InputError, match="8 questions to measure with leave none of 8"):
        sensitivity.apart(asked, 8, 1)


def test_inputs_are_those_of_all_tokens_but_padding(sparse, asked):
    linears = [matrix.linear for matrix in bert.matrices(sparse.model)]
    seen = {}
    inputs.watch(sparse, asked, linears, lambda n, given: seen.setdefault(n, []).append(given))
    assert seen.keys() == {*range(len(linears))} and len({sum(map(len, given)) for given in seen.values()}) == 1
    assert torch.equal(torch.cat(seen[0]), torch.cat(seen[1]))  # query and key
    assert not any(linear._forward_pre_hooks for linear in linears)
    products = patterns.input_products(sparse, asked)
    given = torch.cat(seen[5])
    assert torch.allclose(products[5], given.T @ given / len(given), atol=1e-4)


@pytest.mark.parametrize("group", patterns.PATTERNS.values())
def test_half_of_what_is_there_stays(group):
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    weight[:, 8:24] = 0
    common = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))  # inputs go together
    given = common.repeat(1, 16) + torch.randn(500, 64, generator=torch.Generator().manual_seed(2)) / 2
    products = given.T @ given / len(given)
    errors = {}
    for way in patterns.WAYS:
        made = patterns.pruned(weight, products, group, way)
        assert (made != 0).sum() == 16 * 24 and not made[weight == 0].any()
        if group:
            assert (made != 0).view(16, -1, group).sum(-1).max() == group // 2
        errors[way] = (given @ (made - weight).T).square().sum()
    assert errors["OBS"] < errors["Wanda"] and errors["OBS"] < errors["magnitude"]
    kept = patterns.pruned(weight, products, group, "Wanda")
    assert torch.equal(kept[kept != 0], weight[kept != 0])


def test_surgery_on_one_weight_is_what_the_formula_says():
    weight = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).double()
    given = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)).double()
    products = given.T @ given / 50
    made = algorithms.surgery(weight[0], products, 3)
    slope = products @ (made - weight[0])  # no weight that stays can do better
    assert abs(made[3]) < 1e-9 and slope[torch.arange(8) != 3].abs().max() < 1e-9


def test_patterns_are_compared(sparse, asked):
    products = patterns.input_products(sparse, asked)
    table = patterns.compare(sparse, products, asked, {"2 of 4": 4}, progress=False)
    half = sparsity.density(sparse, (1, 1)) / 2
    assert table.way.tolist() == [*patterns.WAYS] and table.density.tolist() == pytest.approx([half] * 3, rel=0.02)
    errors = patterns.output_errors(sparse, products, 4)
    assert (errors.OBS <= errors.magnitude + 1e-3).all() and (errors.Wanda < 100).all()
    assert patterns.plot_patterns(table, 50).title.startswith("F1 with 2 of 4: magnitude ")
    assert "Outputs change less" in patterns.plot_output_errors(errors).title


def test_neurons_that_are_quiet_go_first(sparse, asked):
    activity = neurons.watch(sparse, asked)
    layer = bert.layers(sparse.model)[0]
    assert [len(seen.mean) for seen in activity] == [layer.output.dense.in_features] * 2
    assert all((seen.size >= seen.mean.abs() - 1e-5).all() for seen in activity)
    table = neurons.compare(sparse, activity, asked, [0.0, 0.3], progress=False).set_index(["way", "cut"])
    assert (table.divergence.xs(0.0, level="cut").abs() < 1e-6).all()
    assert (table.divergence.xs(0.3, level="cut") > 0).all()
    shown = neurons.plot_cut(table.reset_index(), 50)
    assert "% of the neurons" in shown.title


def test_a_neuron_that_always_gives_the_same_leaves_no_trace(sparse, asked):
    layer = bert.layers(sparse.model)[0]
    left = int((~bert.neurons_removable(layer)).nonzero()[0])
    layer.intermediate.dense.weight.data[left], layer.intermediate.dense.bias.data[left] = 0, 1.5
    activity = neurons.watch(sparse, asked)
    gone = [torch.zeros(len(seen.mean), dtype=torch.bool) for seen in activity]
    gone[0][left] = True
    whole = heads.ask(sparse, asked)[0]
    properly = heads.ask(neurons.cut(sparse, gone, [seen.mean for seen in activity]), asked)[0]
    assert (
        heads.divergence(properly, whole)
        < 1e-6
        < heads.divergence(heads.ask(neurons.cut(sparse, gone), asked)[0], whole)
    )
    assert neurons.scores(sparse, activity, neurons.WAYS[-1])[0][left] < 1e-3


def test_outliers_are_found_and_taken_away(sparse, asked):
    bert.layers(sparse.model)[1].output.dense.weight.data[5, 7] = -40
    found = neurons.outliers(sparse, 3)
    assert found.iloc[0][["layer", "output", "neuron", "weight"]].tolist() == [1, 5, 7, -40] and found.sigmas[0] < -20
    assert bert.layers(neurons.without(sparse, found.head(1)).model)[1].output.dense.weight[5, 7] == 0
    drawn = neurons.by_lot(sparse, 10)
    assert len(drawn.drop_duplicates()) == 10
    table = neurons.compare_outliers(sparse, asked, [1, 3], 10)
    assert table.weights.tolist() == [0, 1, 3, 10] and table.divergence[1] > 0 == table.divergence[0]
    assert neurons.plot_outliers(table, 1000).title.startswith("Without 3 of 1,000 weights answers move ")
    behind = neurons.behind(sparse, neurons.watch(sparse, asked), 3)
    assert (behind.moves >= 0).all() and (behind.usual > 0).all()


def test_an_outlier_costs_only_its_group():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    weight[3, 5] = 100
    off = {group: (int8.rounded(weight, 8, group) - weight).square().mean().item() for group in int8.GROUPS}
    assert off["row"] < off["block"] < off["matrix"]
    for group in int8.GROUPS:
        assert len(int8.rounded(weight, 3, group).unique()) <= 7 * (64 if group == "row" else 4)
    again = int8.rounded(weight, 8, "row")
    assert torch.allclose(int8.rounded(again, 8, "row"), again, atol=1e-5)


def test_bits_are_compared(sparse, asked):
    table = int8.compare(sparse, asked, [3, 8], progress=False)
    assert table.group.tolist() == [group for group in int8.GROUPS for _ in range(2)]
    by_bits = table.groupby("bits").divergence.mean()
    assert by_bits[8] < by_bits[3]
    kept = sum(matrix.linear.weight.numel() for matrix in bert.matrices(sparse.model)) * sparsity.density(sparse)
    sizes = int8.sizes(sparse)
    assert sizes.weights["blocks, int8, a scale a block"] * 1e6 == pytest.approx(kept)
    assert sizes.times_smaller.iloc[0] == 1 and sizes.times_smaller.idxmax().startswith("blocks, int8")
    assert (int8.errors(sparse, 8).set_index("matrix") >= 0).all(axis=None)
    assert int8.plot_bits(table, 50).title.startswith("F1 in 3 bits: ")
    weight = bert.matrices(sparse.model)[0].linear.weight.detach()
    assert int8.plot_rounded(weight, "query", 4).title.startswith("query, 4 bits: ")
