"""What the teaching notebooks measure and draw."""

import re

import ipywidgets
import matplotlib
import numpy as np
import pytest
import torch

from qalib import runtimes, sparsity
from qalib.benchmark import latency, profile
from qalib.model import bert
from qalib.model.blocks import Block
from qalib.pruning import magnitude
from qalib.pruning.magnitude import magnitude_mask
from qalib.teaching.exercises import capstone
from qalib.teaching.lessons import (
    boards,
    distillation,
    heads,
    masks,
    minimal,
    model_card,
    movement,
    sliders,
    speed,
    weights,
)
from qalib.utils.errors import InputError

BLOCK: Block = (8, 8)


def test_masks_of_every_granularity_keep_the_same_fraction_of_what_is_left(sparse):
    weight = bert.matrices(sparse.model)[0].linear.weight.detach()
    left = int((weight != 0).sum())
    for granularity in {**magnitude.GRANULARITIES, "blocks": BLOCK}.values():
        kept = magnitude_mask(weight, 0.5, granularity)
        tile = (granularity[0] or 64) * (granularity[1] or 64)
        assert left / 2 - tile <= kept.sum() <= left / 2 and not (kept & (weight == 0)).any()
    assert magnitude_mask(weight, 1.0, BLOCK).sum() == left and not magnitude_mask(weight, 0.0, BLOCK).any()
    masked = [weight * magnitude_mask(weight, 0.5, (1, 1), removed) for removed in magnitude.REMOVED]
    squares = [kept.square().sum() for kept in masked]
    assert squares[0] > squares[1] > squares[2]
    with pytest.raises(
        InputError, match="removed 'middle', keep_fraction 0.5: choose one of smallest, random, largest"
    ):
        magnitude_mask(weight, 0.5, (1, 1), "middle")


def test_pruned_copies_are_compared_and_the_model_stays(sparse, asked):
    before = sparsity.density(sparse, (1, 1))
    table = masks.compare(sparse, asked, [0.5, 0.9], {"single weights": (1, 1), "blocks": BLOCK}, progress=False)
    fractions = table.keep_fraction
    assert fractions.tolist() == [0.9, 0.5] * 2 and sparsity.density(sparse, (1, 1)) == before
    assert (table.density <= fractions * before + 1e-9).all() and (table.density > fractions * before * 0.9).all()
    assert table.squares[0] > table.squares[2] and table.f1.between(0, 100).all()


def test_a_removable_head_is_cut_without_a_trace_and_another_is_not(sparse, asked):
    sparse.model.bert.encoder.layer[0].attention.self.value.bias.data.normal_()
    table = heads.ablate_one_by_one(sparse, asked, progress=False)
    assert table.removable.sum() == sparsity.heads(sparse).removable.sum() >= 1
    assert table.divergence[table.removable].max() < 1e-6 < 100 * table.divergence[~table.removable].min()
    assert (table.change[table.removable] == 0).all() and (table.low <= table.change + 1e-9).all()
    assert (table.change <= table.high + 1e-9).all() and (table[["low", "high"]][table.removable] == 0).all(axis=None)
    pairs = [(0, 0), (1, 2), (1, 3)]
    cut = heads.ablate_heads(sparse, pairs)
    found = [tuple(row) for row in sparsity.heads(cut).query("removable")[["layer", "head"]].to_numpy().tolist()]
    assert set(pairs) <= set(found)
    assert heads.ablate_in_order(sparse, asked, pairs, [1, 3], False).left.tolist() == [7, 5]


def test_questions_are_spread_over_all_contexts(asked):
    assert [q.id for q in heads.spread(asked, 4).questions] == ["q0", "q2", "q4", "q6"]
    assert len(heads.spread(asked, 99)) == 8
    low, high = heads.bootstrap(np.array([0.0, 0, 0, 40]))
    assert low == 0 and 10 < high <= 40


def test_what_an_outlier_is():
    weight = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    weight[3, 4], weight[5] = 100, 0
    found = weights.outliers({"one": weight}).iloc[0]
    assert found.weights == 2450 and found.outliers == 1 and found.largest_in_sigmas > 20
    assert found.percent_of_squares == pytest.approx(100 * 1e4 / weight.double().square().sum().item())


def test_attention_rows_sum_to_one(sparse):
    tokens, seen = heads.attention_weights(sparse, "what is red?", "it is red")
    assert tokens[0] == "[CLS]" and seen.shape == (2, 4, len(tokens), len(tokens))
    assert torch.allclose(seen.sum(-1), torch.ones(()))
    assert sparse.model.config._attn_implementation != "eager"


def test_the_gradient_of_the_scores_is_the_sum_that_the_notebook_says(sparse, asked):
    found = movement.gradients(sparse, asked, 1, "FFN in", batch=4)
    by_hand = (found.gradient * found.weight).reshape(16, 8, 8, 8).sum((1, 3))
    assert torch.allclose(found.of_scores, by_hand, atol=1e-6) and by_hand.abs().max() > 0


def test_movement_is_not_magnitude_on_two_weights():
    path = movement.two_weights(3)
    assert path.a.iloc[-1] > path.b.iloc[-1] and path.score_a.iloc[-1] < 0 < path.score_b.iloc[-1]
    assert path.loss.is_monotonic_decreasing
    long = movement.two_weights(200).iloc[-1]
    assert (long.a, long.b) == pytest.approx(movement.BEST)


def test_a_student_learns_from_its_teacher_and_keeps_its_zeros(sparse, asked):
    student = magnitude.prune(sparse, 0.7, BLOCK)
    before = sparsity.density(student, (1, 1))
    seeds = distillation.compare(student, sparse, asked, asked, {"teacher only": 1.0}, 2, steps=2, progress=False)
    assert seeds.model.tolist()[2:] == ["student, teacher only"] * 2 and seeds.seed.tolist() == [0, 0, 0, 1]
    options = {"steps": 30, "batch_size": 4, "lr": 1e-3, "progress": False}
    ways = {"answers only": 0.0, "teacher only": 1.0}
    table = distillation.compare(student, sparse, asked, asked, ways, **options).set_index("model")
    assert table.divergence["teacher"] == pytest.approx(0, abs=1e-6)
    assert table.divergence["student, teacher only"] < table.divergence["student, not trained"]
    assert table.divergence["student, teacher only"] < table.divergence["student, answers only"]
    trained, losses = distillation.train(student, sparse, asked, 0.0, **options)
    assert losses.tail(5).mean() < losses.head(5).mean()
    for old, new in zip(bert.matrices(student.model), bert.matrices(trained.model), strict=True):
        assert not (new.linear.weight[old.linear.weight == 0] != 0).any()
    assert before >= sparsity.density(trained, (1, 1)) > 0.8 * before and sparsity.density(student, (1, 1)) == before
    tokens, logits, place = distillation.start_logits(sparse, asked.questions[0])
    assert len(tokens) == len(logits) and tokens[place : place + 2] == ["on", "##e"]


def test_nothing_is_asked_that_was_learnt(asked):
    learnt, rest = distillation.split_by_context(asked, 5)
    assert len(learnt) == 5 and len(rest) == 3
    assert not {q.context for q in learnt.questions} & {q.context for q in rest.questions}
    with pytest.raises(InputError, match="8 questions to train on leave none"):
        distillation.split_by_context(asked, 8)


def test_costs_say_what_is_timed(sparse):
    table = profile.compare_zero_patterns(sparse, batch=1, length=16, repeats=1, progress=False).set_index("candidate")
    assert table.zeros["dense: no zeros"] < 1e-6 < 0.5 < table.zeros["dense: zeros scattered"]
    assert table.zeros["dense: zeros in blocks"] == pytest.approx(table.zeros["dense: zeros scattered"], abs=0.02)
    assert table.zeros["compact: zeros in blocks"] < table.zeros["dense: zeros in blocks"]
    assert table.speedup["dense: no zeros"] == 1 and table.multiply_add_ratio["compact: zeros in blocks"] > 1
    modules = {name: runtimes.build(name, sparse) for name in ("dense", "compact")}
    times = profile.breakdown(modules, latency.random_inputs(sparse, 2, 32), rounds=2)
    assert list(times.index) == [*profile.COMPONENTS, "the rest"] and list(times) == ["dense", "compact"]
    assert (times > 0).all(axis=None)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules["dense"].modules())


@boards.large
def drawn(share, layer):
    figure, axes = boards.board(2)
    axes.plot([0, 1], [share, layer], label="a line")
    axes.set(xlabel="here", ylabel="there")
    axes.set_title(f"{share:g} of {layer}")
    return figure


CHOICES = {"share": [0.5, 0.2, 0.4], "layer": {f"layer {number}": number for number in range(6)}}


def test_sliders_are_there_for_somebody_to_move(monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    monkeypatch.setattr(sliders, "live", lambda: True)
    monkeypatch.setattr(sliders, "display", lambda thing, **_: shown.append(thing) or Handle())
    assert sliders.explore(drawn, {"share": 0.4}, **CHOICES) is None
    box, figure = shown
    assert isinstance(box, ipywidgets.HBox) and 'alt="0.4 of 0. Lines' in figure.data
    (share, said), (layer, _) = (row.children for row in box.children)
    assert [label for label, _ in share.options] == ["0.2", "0.4", "0.5"] and (share.label, said.value) == ("0.4",) * 2
    share.value, layer.value = 0.5, 2
    assert said.value == "0.5" and box.children[1].children[1].value == "layer 2"
    assert 'alt="0.5 of 2. Lines of a line; across: here; up: there"' in shown[-1].data and len(shown) == 4


def test_a_page_has_the_figures_drawn_ahead():
    ahead = sliders.explore(drawn, {"layer": 3}, {"layer": 2}, **CHOICES)
    page = ahead._repr_html_()
    alts = re.findall(r'<img alt="([\d.]+ of \d)\. [^"]+" src="data:image/webp;base64,[^"]+"( hidden)?>', page)
    assert [alt for alt, _ in alts] == [f"{share} of {layer}" for share in (0.2, 0.4, 0.5) for layer in (1, 3, 5)]
    assert [alt for alt, hidden in alts if not hidden] == ["0.2 of 3"] == [ahead.first.title]
    assert page.count('type="range"') == 2 and 'aria-valuetext="layer 3"' in page and "layer (3 of 6 values)" in page


def test_a_board_says_what_is_seen():
    figure = weights.plot_matrix(torch.randn(20, 20), "query")
    assert figure.description.startswith("query: 100 % of 400 weights are left. Map; across: column: an input; up: ")
    svg, said = figure._repr_svg_()
    assert said == {"alt": figure.description} and f"<title>{figure.description}</title>" in svg
    assert '<svg role="img" ' in svg


def test_a_minimal_runs_blocks_have_their_magnitudes(sparse, asked):
    seen = minimal.prune_minimal(sparse, asked, 0.2, steps=4, batch_size=2, layer=1, progress=False)
    table = movement.block_table(sparse, seen, 1)
    assert len(table) == seen.scores.shape[1] and (table.magnitude > 0).all()
    assert table.kept.sum() == table.kept_by_magnitude.sum() > 0
    assert table.magnitude[table.kept_by_magnitude].min() >= table.magnitude[~table.kept_by_magnitude].max()
    ways = movement.compare_ways(sparse, [seen, seen], asked, asked, 0.2, 2, 2)
    assert ways.way.tolist() == ["movement"] * 2 + ["magnitude"] * 2 + ["chance"]
    assert ways.density.between(0.15, 0.2).all() and ways.f1.between(0, 100).all()
    assert movement.plot_ways(ways).title.startswith(f"F1 at {ways.density.max():.2f} density: ")


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    figure = weights.plot_magnitudes(torch.randn(20, 20))
    figure._repr_svg_()
    assert dict(matplotlib.rcParams) == before and figure.axes[0].xaxis.label.get_size() == boards.LARGE["font.size"]
    for module in (capstone, distillation, heads, masks, model_card, movement, speed, weights):
        for name in dir(module):
            assert not name.startswith("plot_") or hasattr(getattr(module, name), "__wrapped__"), name
