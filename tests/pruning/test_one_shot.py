"""One-shot pruning of a tiny model: its calibration, and whole runs by the method obs."""

from dataclasses import replace

import pytest
import torch
from test_run import log, prune

from qalib.model import bert, blocks, checkpoint
from qalib.pruning import calibration, one_shot, plan, surgery
from qalib.pruning.calibration import Calibration
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import MODEL_INPUTS, teacher_logits
from qalib.pruning.one_shot_pruner import OneShotPruner
from qalib.pruning.plan import TOLERANCE, SpeedupPlan
from qalib.pruning.run_folder import RunFolder
from qalib.qa import squad
from qalib.utils.errors import InputError
from qalib.utils.timing import Timing


@pytest.fixture
def settings(pruning_settings):
    return pruning_settings | {"method": "obs", "rounds": 4, "density": 0.5}


@pytest.fixture
def dense(dense_folder):
    return checkpoint.load(dense_folder)


@pytest.fixture
def batches(dense, pruning_settings):
    data = SquadDataset(squad.load(pruning_settings["data"], "train").questions[:24], dense.tokenizer)
    return [data.collate(range(first, first + 8)) for first in range(0, 24, 8)]


def kept_share(model, block):
    kept = [blocks.mask(m.linear.weight, block).float() for m in bert.matrices(model)]
    return (sum(k.sum() for k in kept) / sum(k.numel() for k in kept)).item()


def test_moments_are_those_of_all_tokens_but_padding(dense, batches):
    matrix, inputs, outputs = bert.matrices(dense.model)[3], [], []
    matrix.linear.register_forward_hook(lambda _, x, y: (inputs.append(x[0][0]), outputs.append(y[0])) and None)
    with torch.no_grad():
        for batch in batches:
            for row, mask in enumerate(batch["attention_mask"]):  # window by window, so without padding
                dense.model(**{name: batch[name][row : row + 1, : int(mask.sum())] for name in MODEL_INPUTS})
    x, t = torch.cat(inputs).double(), torch.cat(outputs).double()
    (layer, *_), (original, *_) = bert.layers(dense.copy().model), bert.layers(dense.model)
    moments = calibration.Calibration(dense.model, batches).moments(layer, original, "attention output")
    torch.testing.assert_close(moments.products, torch.cov(x.T, correction=0), atol=1e-5, rtol=1e-3)
    expected = torch.cov(torch.cat([t, x], 1).T, correction=0)[: t.shape[1], t.shape[1] :]
    torch.testing.assert_close(moments.cross, expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(moments.mean, x.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moments.reference_mean, t.mean(0), atol=1e-5, rtol=1e-4)


def test_a_layer_reads_what_the_layers_before_it_give(dense, batches):
    """Also after these were changed: the second layer's inputs and residuals are those of whole passes."""
    pruned = dense.copy()
    layer, original = (bert.layers(one.model)[1] for one in (pruned, dense))
    calibrated = calibration.Calibration(dense.model, batches)
    bert.layers(pruned.model)[0].output.dense.weight.data *= 0.5
    calibrated.advance(bert.layers(pruned.model)[0], bert.layers(dense.model)[0])
    moments = calibrated.moments(layer, original, "FFN out")
    reads, residuals, outputs = [], [], []
    for one in (layer, original):
        one.output.dense.register_forward_hook(lambda _, x, y: (reads.append(x[0]), outputs.append(y)) and None)
        one.intermediate.dense.register_forward_hook(lambda _, x, y: residuals.append(x[0]) and None)
    x, reference = [], []
    for batch in batches:
        reads.clear(), residuals.clear(), outputs.clear()
        real = batch["attention_mask"].bool()
        teacher_logits(pruned.model, batch), teacher_logits(dense.model, batch)
        x.append(reads[0][real].double())
        reference.append((outputs[1] + residuals[1] - residuals[0])[real].double())
    x, reference = torch.cat(x), torch.cat(reference)
    expected = torch.cov(torch.cat([reference, x], 1).T, correction=0)[: reference.shape[1], reference.shape[1] :]
    torch.testing.assert_close(moments.cross, expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(moments.reference_mean, reference.mean(0), atol=1e-5, rtol=1e-4)


def test_products_in_three_parts_are_those_in_one(monkeypatch):
    x = torch.randn(5, 7)
    monkeypatch.setattr(calibration, "SPLIT", 2)
    torch.testing.assert_close(calibration._products(x), x.T @ x)


def test_curvature_is_the_square_of_what_the_loss_changes_by(dense, batches):
    batch = {name: value[:1] for name, value in batches[0].items()}
    matrix = bert.matrices(dense.model)[-1]
    found = calibration.curvature(dense.model, [batch], seed=3)[matrix.name]
    logits = teacher_logits(dense.model, batch)
    answers = torch.multinomial(logits[0].softmax(-1), 1, generator=torch.Generator().manual_seed(3))[:, 0]
    real, squares = int(batch["attention_mask"].sum()), 0.0
    for token in range(real):  # by finite differences of output 5
        losses = []
        for step in (-0.01, 0.01):

            def shifted(module, given, output, token=token, step=step):
                output[0, token, 5] += step

            hook = matrix.linear.register_forward_hook(shifted)
            losses.append(torch.nn.functional.cross_entropy(teacher_logits(dense.model, batch)[0], answers) * 2)
            hook.remove()
        squares += ((losses[1] - losses[0]) / 0.02).item() ** 2
    assert found[5].item() == pytest.approx(squares / real, rel=0.05)


def distance(model, dense, batches):
    """Squared distance of the logits from the dense model's."""
    return sum((teacher_logits(model, b) - teacher_logits(dense.model, b)).square().sum().item() for b in batches)


def masked(dense, kept):
    model = dense.copy().model
    for matrix in bert.matrices(model):
        matrix.linear.weight.data *= blocks.expand(kept[matrix.name], (4, 4))
    return model


def chosen(dense, batches, density, curvature=None):
    model = dense.copy().model
    products = surgery.refit(model, dense.model, Calibration(dense.model, batches), surgery.masks(model, (4, 4)))
    curvature = curvature or calibration.curvature(dense.model, batches)
    return surgery.choose(model, surgery.costs(model, products, curvature, density, (4, 4)), density, (4, 4))


def test_a_refit_of_all_blocks_is_the_dense_model_and_one_of_some_is_nearer_to_it(dense, batches):
    model = dense.copy().model
    surgery.refit(model, dense.model, Calibration(dense.model, batches), surgery.masks(model, (4, 4)))
    for new, old in zip(bert.matrices(model), bert.matrices(dense.model), strict=True):
        torch.testing.assert_close(new.linear.weight, old.linear.weight, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(new.linear.bias, old.linear.bias, atol=1e-3, rtol=1e-3)
    kept, refitted = chosen(dense, batches, 0.5), dense.copy().model
    surgery.refit(refitted, dense.model, Calibration(dense.model, batches), kept)
    assert distance(refitted, dense, batches) < 0.7 * distance(masked(dense, kept), dense, batches)


def test_refitting_again_does_no_harm(dense, batches):
    """Sublayers that were fitted at once, each with what the others read before, drifted ever further away."""
    kept, model, distances = chosen(dense, batches, 0.3), dense.copy().model, []
    for _ in range(4):
        surgery.refit(model, dense.model, Calibration(dense.model, batches), kept)
        distances.append(distance(model, dense, batches))
    assert max(distances) < 1.05 * distances[0]


def test_what_does_not_matter_to_the_loss_goes_first(dense, batches):
    curvature = calibration.curvature(dense.model, batches)
    idle = bert.matrices(dense.model)[7].name
    curvature[idle] = curvature[idle] * 1e-9
    kept = chosen(dense, batches, 0.8, curvature)
    assert not kept[idle].all() and kept[idle].float().mean() <= 1 / 3  # REACH times what goes
    assert min(k.float().mean() for name, k in kept.items() if name != idle) > kept[idle].float().mean()


@pytest.mark.parametrize(("ffn", "block"), [("block", (4, 4)), ("hybrid", (4, 4)), ("block", (1, 4))])
def test_a_density_asked_is_a_density_got(settings, ffn, block):
    out = prune(settings, ffn=ffn, block=block)
    pruned = checkpoint.load(out)
    unit = 128 if ffn == "hybrid" else block[0] * block[1]
    total = sum(m.linear.weight.numel() for m in bert.matrices(pruned.model))
    assert 0.5 - unit / total <= pruned.meta["density"] <= 0.5
    lines = log(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["density"] for line in lines] == pytest.approx([0.875, 0.75, 0.625, 0.5], abs=0.005)
    assert lines[-1]["windows"] == pruned.meta["windows_seen"] == 4 * 48 and pruned.meta["method"] == "obs"
    if ffn == "block":
        assert kept_share(pruned.model, block) == pytest.approx(pruned.meta["density"])
    for layer in bert.layers(pruned.model) if ffn == "hybrid" else ():
        neurons = (layer.intermediate.dense.weight != 0).any(1)
        assert (neurons == (layer.output.dense.weight != 0).any(0)).all()
        assert neurons.sum() < 128 and neurons[: neurons.sum()].all()  # kept ones first


def test_it_answers_more_like_the_dense_model_than_by_magnitude(settings, dense, batches):
    scores = {}
    for method in ("obs", "magnitude"):
        out = prune(settings, method=method, out=settings["out"] / method, epochs=0.01, weight_lr=1e-12)
        model = checkpoint.load(out).model
        scores[method] = distance(model, dense, batches)
    assert scores["obs"] < 0.5 * scores["magnitude"]


def test_neurons_are_sorted_by_cost_and_the_function_stays(dense, batches):
    """Their products follow, and so does a resumed run's dense model."""
    model, reference = dense.copy().model, dense.copy().model
    pruner = OneShotPruner(model, reference, lambda: batches, (4, 4))
    pruner.prepare()
    pruner.price(0.9)
    assert len(pruner.orders) == 2 and distance(reference, dense, batches) < 1e-6
    assert distance(model, dense, batches) < 1e-4
    resumed = OneShotPruner(dense.copy().model, dense.copy().model, lambda: batches, (4, 4))
    resumed.load_state_dict(pruner.state_dict())
    for one in (pruner, resumed):
        one.prune(0.9)
    assert distance(resumed.model, pruner, batches) == 0


def test_zero_blocks_stay_zero_and_scores_are_written(settings, packed_folder, tmp_path):
    scored = {"eval_data": settings["data"], "eval_questions": 4}
    out = prune(settings, teacher=str(packed_folder), block=(8, 8), density=0.2, **scored)
    before, after = checkpoint.load(packed_folder), checkpoint.load(out)
    for old, new in zip(bert.matrices(before.model), bert.matrices(after.model), strict=True):
        assert not (blocks.mask(new.linear.weight, (8, 8)) & ~blocks.mask(old.linear.weight, (8, 8))).any()
    assert after.meta["density"] == pytest.approx(0.2, abs=0.002)
    assert after.meta["scores"]["model"].keys() == {"exact_match", "f1"}
    assert after.meta["teacher"]["sha256"] == before.sha256 and after.meta["data"]["windows"] == 48


def test_attention_by_relative_position_is_pruned_as_well(settings, mpnet):
    before = checkpoint.load(mpnet)
    after = checkpoint.load(prune(settings, teacher=str(mpnet), block=(4, 4), density=0.2))
    bias, table = (one.model.bert.encoder.relative_attention_bias.weight for one in (after, before))
    assert after.meta["density"] == pytest.approx(0.2, abs=0.002)
    torch.testing.assert_close(bias, table, atol=1e-3, rtol=1e-3)


def test_a_resumed_run_ends_as_one_that_went_through(settings, tmp_path, monkeypatch):
    whole = prune(settings)
    refit, calls = surgery.refit, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return refit(*arguments)

    monkeypatch.setattr(surgery, "refit", failing)
    with pytest.raises(KeyboardInterrupt):
        prune(settings, out=tmp_path / "again")
    folder = RunFolder(tmp_path / "again.run")
    assert folder.last_checkpoint().name == "checkpoint-2" and len(list(folder.path.glob("checkpoint-*"))) == 1
    with pytest.raises(InputError, match="already holds a run"):
        prune(settings, out=tmp_path / "again")
    again = prune(settings, out=tmp_path / "again", resume=True)
    assert len(calls) == 4 + 2  # one before the first round, and rounds 3 and 4
    for one, other in zip(*(bert.matrices(checkpoint.load(path).model) for path in (whole, again)), strict=True):
        torch.testing.assert_close(one.linear.weight, other.linear.weight)
    assert [line["step"] for line in log(again)] == [1, 2, 3, 4]


def test_then_the_mask_is_fixed_and_the_rest_trained(settings, tmp_path):
    first = prune(settings)
    out = prune(settings, method="fixed-mask", student=str(first), out=tmp_path / "trained", epochs=1)
    meta = checkpoint.load(out).meta
    assert meta["method"] == "obs" and 0.49 < meta["density"] <= 0.5  # without what compaction leaves out


@pytest.fixture
def clock(monkeypatch):
    """A machine whose pass takes a part that is constant, and one that a bent curve of the density gives."""

    def measure(plan, checkpoint):
        densities = [(m.linear.weight != 0).double().mean().item() for m in bert.matrices(checkpoint.model)]
        return 1 / (0.1 + 0.9 * (sum(densities) / len(densities)) ** 1.5)

    monkeypatch.setattr(SpeedupPlan, "_measure", measure)


@pytest.mark.parametrize(("rounds", "ffn"), [(4, "block"), (6, "hybrid")])
def test_a_speedup_is_reached(settings, clock, rounds, ffn):
    out = prune(settings, speedup=3, rounds=rounds, ffn=ffn)
    meta, lines = checkpoint.load(out).meta, log(out)
    assert 3 * (1 - TOLERANCE) <= meta["speedup"]["value"] <= 3 * (1 + TOLERANCE)
    assert [line["step"] for line in lines] == list(range(1, meta["steps"] + 1)) and meta["steps"] >= rounds
    assert [line["speedup"] for line in lines] == sorted(line["speedup"] for line in lines)
    assert lines[-1]["speedup"] == meta["speedup"]["value"] and lines[-1]["density"] < 0.5


def test_a_run_to_a_speedup_is_resumed(settings, clock, tmp_path, monkeypatch):
    whole, save = prune(settings, speedup=2), RunFolder.save

    def failing(folder, step, *more):
        save(folder, step, *more)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "save", failing)
        prune(settings, speedup=2, out=tmp_path / "again")
    again = prune(settings, speedup=2, out=tmp_path / "again", resume=True)
    assert [line["density"] for line in log(again)] == [line["density"] for line in log(whole)]


def test_a_speedup_is_dense_seconds_over_block_sparse_ones(dense, monkeypatch):
    seconds = {"dense": [(4.0, 1.0, 5.0)] * 2, "block-sparse": [(0.2, 1.0, 0.3), (2.0, 9.0, 1.0)]}

    def interleave(calls, *_, **__):
        for call in calls.values():
            call()
        return {name: Timing(seconds[name].pop(0)) for name in calls}

    monkeypatch.setattr(plan, "interleave", interleave)
    planned = plan.SpeedupPlan(dense, replace(dense.copy(), block=(4, 4)), 3)
    assert planned.ends == ((0, 0.3 / 4), (1, 2 / 4))
    assert planned.next_density(1.0, 2) == 1 - (2 / 4 - 1 / 3) / (2 / 4 - 0.3 / 4) / 2  # not timed again


def test_a_speedup_is_measured_within_the_positions_that_a_model_has(mpnet, clock, monkeypatch):
    """MPNet counts them from the padding token's: the longest window is shorter than the table."""
    monkeypatch.setattr(plan, "LENGTH", 600)
    loaded = checkpoint.load(mpnet)
    planned = plan.SpeedupPlan(loaded, replace(loaded.copy(), block=(4, 4)), 3)
    assert planned.inputs["input_ids"].shape[1] == loaded.model.config.max_position_embeddings - 2


@pytest.mark.parametrize("speedup", [0.9, 20])
def test_a_speedup_out_of_reach_is_refused(settings, clock, speedup):
    with pytest.raises(InputError, match=f"speedup {speedup}: must be above 1.00, what .* and below 10.00"):
        prune(settings, speedup=speedup)
    assert not settings["out"].exists() and not (settings["out"].parent / "out.run").exists()


def test_refusals(settings, packed_folder, monkeypatch):
    with pytest.raises(InputError, match="method 'obs' prunes the teacher itself; student 'other' must be left out"):
        prune(settings, student="other")
    with pytest.raises(InputError, match="blocks of 5x5 do not divide"):
        prune(settings, block=(5, 5))
    with pytest.raises(InputError, match="density 0.5: must be below .*, what .*tiny-sparse has left already"):
        prune(settings, teacher=str(packed_folder))
    monkeypatch.setattr(one_shot, "PartialState", lambda: type("State", (), {"num_processes": 2}))
    with pytest.raises(InputError, match="method 'obs' needs a single process, not 2"):
        prune(settings)
    assert not settings["out"].exists()
