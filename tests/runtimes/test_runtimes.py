import copy

import family
import pytest
import torch

from qalib import runtimes
from qalib.model import bert, checkpoint, quantization
from qalib.runtimes import compact
from qalib.runtimes.cpu import instruction_sets
from qalib.runtimes.export import onnx_masked
from qalib.utils.errors import InputError

INPUTS = {
    "input_ids": torch.arange(40).view(2, 20) + 5,
    "attention_mask": torch.tensor([[1] * 20, [1] * 11 + [0] * 9]),
}


def logits(model, **inputs):
    with torch.inference_mode():
        output = model(**(inputs or INPUTS))
    return torch.stack([output.start_logits, output.end_logits])


@pytest.mark.parametrize("name", runtimes.available("cpu"))
def test_every_runtime_gives_the_logits_of_dense(sparse, name):
    before = {key: value.clone() for key, value in sparse.model.state_dict().items()}
    module = runtimes.build(name, sparse)
    assert (logits(module) - logits(sparse.model)).abs().max() < 1e-4
    assert all(torch.equal(value, before[key]) for key, value in sparse.model.state_dict().items())


def test_compact_cuts_what_can_go_and_nothing_else(sparse):
    cut = runtimes.build("compact", sparse)
    for small, layer in zip(bert.layers(cut), bert.layers(sparse.model), strict=True):
        heads = int((~bert.heads_removable(layer, 4)).sum())
        neurons = int((~bert.neurons_removable(layer)).sum())
        assert small.attention.self.query.weight.shape == (16 * heads, 64)
        assert small.attention.output.dense.weight.shape == (64, 16 * heads)
        assert small.intermediate.dense.weight.shape == (neurons, 64) and neurons < 128
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in sparse.model.parameters())


def test_a_layer_without_heads_or_neurons(sparse):
    layer = bert.layers(sparse.model)[0]
    layer.attention.self.value.weight.data[:] = 0  # value biases stay and must be taken over
    layer.intermediate.dense.weight.data[:] = 0  # so must act(bias)
    assert layer.attention.self.value.bias.abs().max() > 0 and layer.intermediate.dense.bias.abs().max() > 0
    cut = runtimes.build("compact", sparse)
    assert cut.bert.encoder.layer[0].attention.output.dense.weight.shape == (64, 0)
    assert cut.bert.encoder.layer[0].intermediate.dense.weight.shape == (0, 64)
    for name in runtimes.available("cpu"):
        assert (logits(runtimes.build(name, sparse)) - logits(sparse.model)).abs().max() < 1e-4
        assert logits(runtimes.build(name, sparse, dtype="bf16")).isfinite().all()


def test_a_runtime_that_cannot_run_here_says_why_and_is_not_offered(sparse, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="runtime compact: torch finds no CUDA GPU on this machine"):
        runtimes.build("compact", sparse, "cuda")
    assert runtimes.available("cuda") == [] and runtimes.best("cuda") == "compact"
    make, missing = runtimes.REGISTRY["dense"].build, ["no such library"]
    fast = runtimes.Runtime("fast", "", make, unavailable_reason=lambda: missing[0])
    monkeypatch.setitem(runtimes.REGISTRY, "fast", fast)
    monkeypatch.setitem(runtimes.REGISTRY, "slow", runtimes.Runtime("slow", "", make, opt_in=True))
    assert not {"fast", "slow"} & set(runtimes.available("cpu"))
    with pytest.raises(InputError, match="runtime fast: no such library"):
        runtimes.build("fast", sparse)
    missing[0] = None
    assert "fast" in runtimes.available("cpu") and runtimes.build("slow", sparse)


@pytest.mark.skipif(instruction_sets.best_int8() is None, reason=str(instruction_sets.int8_unavailable_reason()))
def test_int8_takes_small_blocks_in_larger_ones(sparse):
    sparse.block = (1, 1)
    module = runtimes.build("block-sparse-int8", sparse)
    caveat = runtimes.REGISTRY["block-sparse-int8"].caveat(sparse, module)
    assert caveat.startswith("multiplies blocks of (1, 4), which hold those of (1, 1)")
    difference = (logits(module) - logits(sparse.model)).abs().max()
    assert 0 < difference < 0.5
    sparse.block = (3, 3)  # 12 columns do not divide heads of 16
    with pytest.raises(InputError, match=r"block-sparse-int8: \w+ is not for blocks of \(3, 3\); 4 columns"):
        runtimes.build("block-sparse-int8", sparse)


def test_bf16(sparse):
    module = runtimes.build("compact", sparse, dtype="bf16")
    assert next(module.parameters()).dtype == torch.bfloat16
    assert (logits(module).float() - logits(sparse.model)).abs().max() < 0.5


def test_unknown_names(sparse):
    with pytest.raises(
        InputError, match="no runtime 'fast'; there are dense, dense-compiled, compact, block-sparse, block-sparse-int8"
    ):
        runtimes.build("fast", sparse)
    with pytest.raises(InputError, match="no type 'fp8'; there are fp32, bf16"):
        runtimes.build("dense", sparse, dtype="fp8")


@pytest.mark.parametrize("block", [None, (8, 8), (32, 16)])
def test_a_cut_model_grows_back(sparse, block):
    small = compact.shrink(copy.deepcopy(sparse.model), block)
    whole = compact.expand(small, copy.deepcopy(sparse.model), block)
    assert (logits(whole) - logits(sparse.model)).abs().max() < 1e-4
    for now, before in zip(bert.matrices(whole), bert.matrices(sparse.model), strict=True):
        assert not now.linear.weight[before.linear.weight == 0].any()
    for matrix in bert.matrices(small) if block else ():
        assert all(size and size % side == 0 for size, side in zip(matrix.linear.weight.shape, block, strict=True))


def test_neurons_pruned_one_by_one_do_not_fill_blocks(tmp_path):
    """50 and 37 of 128 neurons are left, all over the matrices: in blocks of 8, what can go makes them 56 and 40."""
    loaded = checkpoint.load(family.KINDS["hybrid"]().write(tmp_path / "made"))
    for number, neurons in enumerate((56, 40)):
        layer = runtimes.build("block-sparse", loaded).bert.encoder.layer[number]
        assert layer.inner.outputs == layer.outer.inputs == neurons
        packed = [part.get_extra_state() or [part.values] for part in (layer.inner, layer.outer)]
        assert [values.numel() for values, *_ in packed] == [neurons * 64] * 2
    loaded.model.bert.encoder.layer[0].output.dense.weight.data[:] = 0  # nothing is left, but there is a matrix
    module = runtimes.build("block-sparse", loaded)
    assert module.bert.encoder.layer[0].inner.outputs == 8
    assert (logits(module) - logits(loaded.model)).abs().max() < 1e-4


def test_a_neuron_that_is_zero_by_chance_does_not_move_the_blocks(tmp_path):
    loaded = checkpoint.load(family.KINDS["full block"]().write(tmp_path / "made"))
    before = bert.layers(compact.shrink(copy.deepcopy(loaded.model), (8, 8)))[0].intermediate.dense.weight.shape
    loaded.model.bert.encoder.layer[0].intermediate.dense.weight.data[3] = 0
    after = bert.layers(compact.shrink(copy.deepcopy(loaded.model), (8, 8)))[0].intermediate.dense.weight.shape
    assert before == after


def test_the_page_stores_int8_where_that_loses_nothing():
    weight = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    values, scales = onnx_masked.stored(weight)
    assert values.dtype == torch.float16 and scales is None
    exact = quantization.dequantize(*quantization.quantize(weight))
    values, scales = onnx_masked.stored(exact)
    assert values.dtype == torch.int8 and torch.allclose(
        quantization.dequantize(values, scales), exact, rtol=1e-5, atol=0
    )
    embedding, ids = onnx_masked.StoredEmbedding(exact[0]), torch.tensor([[2, 0]])
    assert torch.allclose(embedding(ids), exact[0][ids], rtol=1e-5, atol=0)
