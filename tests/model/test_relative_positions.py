"""MPNet's bias by relative position: transformers' logits at every length, in every runtime, with heads cut out."""

import copy

import family
import pytest
import torch
from transformers import MPNetConfig, MPNetForQuestionAnswering
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from qalib import runtimes
from qalib.model import bert, checkpoint, saving
from qalib.model.relative_positions import PositionBias, RelativeAttentionBias
from qalib.pruning import attention
from qalib.runtimes import compact
from qalib.runtimes.forward import Forward
from qalib.runtimes.gpu.graphs import Graphs, record_on_cpu
from qalib.utils.errors import InputError

LENGTHS = (1, 2, 7, 33, 128, 129, 257, 511, 512)
SIZES = {"vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def plain():
    """A tiny MPNetForQuestionAnswering of transformers, its table as large as a trained one's."""
    torch.manual_seed(0)
    config = MPNetConfig(**SIZES, intermediate_size=128, max_position_embeddings=514, initializer_range=0.2)
    model = MPNetForQuestionAnswering(config).eval()
    torch.nn.init.normal_(model.mpnet.encoder.relative_attention_bias.weight, std=2.5)
    return model


@pytest.fixture(scope="module")
def mpnet(plain, tmp_path_factory):
    """The same, loaded, and some heads and neurons removable."""
    folder = tmp_path_factory.mktemp("mpnet") / "plain"
    with torch.no_grad():
        first, second = plain.mpnet.encoder.layer
        first.attention.attn.v.weight[16:32] = 0  # of head 1; its value bias stays
        second.attention.attn.o.weight[:, :32] = 0  # of heads 0 and 1
        second.output.dense.weight[:, :64] = 0
    plain.save_pretrained(folder)
    return checkpoint.load(folder)


def batch(length, left=None):
    ids = torch.randint(3, 60, (2, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    if left is not None:
        mask[1, left:], ids[1, left:] = 0, 1
    return {"input_ids": ids, "attention_mask": mask}


def difference(module, plain, inputs):
    with torch.inference_mode():
        output, expected = module(**inputs), plain(**inputs)
    seen = inputs["attention_mask"] == 1
    pairs = [(output[name] - expected[name])[seen] for name in ("start_logits", "end_logits")]
    return torch.stack(pairs).abs().max().item()


@pytest.mark.parametrize("name", runtimes.available("cpu"))
def test_logits_are_those_of_transformers_at_every_length(name, mpnet, plain):
    module = runtimes.build(name, mpnet)
    for length in LENGTHS:
        assert difference(module, plain, batch(length)) < 1e-4
        assert difference(module, plain, batch(length, left=(length + 2) // 3)) < 1e-4


def test_without_the_table_or_with_its_heads_swapped_logits_are_others(mpnet, plain):
    for change in (lambda weight: weight.zero_(), lambda weight: weight.copy_(weight.flip(1))):
        model = copy.deepcopy(mpnet.model)
        with torch.no_grad():
            change(model.bert.encoder.relative_attention_bias.weight)
        assert difference(model, plain, batch(33)) > 1e-2


def test_the_bias_of_a_distance_is_that_of_transformers():
    table = RelativeAttentionBias(3)
    torch.nn.init.normal_(table.weight)
    for length in LENGTHS:
        places = torch.arange(length)
        rows = MPNetEncoder.relative_position_bucket(places - places[:, None])
        bias = PositionBias(table(length))
        assert bias.by_distance.shape == (3, 2 * length - 1)
        assert torch.equal(bias.mask, table.weight[rows].permute(2, 0, 1)[None])
        assert torch.equal(rows, family.buckets(length))


def test_heads_that_are_cut_take_their_columns_along(mpnet, plain):
    small = compact.shrink(copy.deepcopy(mpnet.model))
    assert [layer.attention.self.heads.tolist() for layer in bert.layers(small)] == [[0, 2, 3], [2, 3]]
    assert torch.equal(
        small.bert.encoder.relative_attention_bias.weight, plain.mpnet.encoder.relative_attention_bias.weight
    )
    assert difference(small, plain, batch(40, left=9)) < 1e-4
    whole = compact.expand(small, copy.deepcopy(mpnet.model))
    assert difference(whole, plain, batch(40, left=9)) < 1e-4
    assert whole.state_dict().keys() == mpnet.model.state_dict().keys()


@pytest.mark.parametrize("implementation", ["eager", "sdpa", attention.NAME])
@pytest.mark.parametrize("cut", [False, True])
def test_every_attention_has_the_bias(implementation, cut, mpnet, plain):
    model = copy.deepcopy(mpnet.model)
    model = compact.shrink(model) if cut else model
    model.set_attn_implementation(implementation)
    assert difference(model, plain, batch(40)) < 1e-4
    assert difference(model, plain, batch(40, left=9)) < 1e-4
    without = batch(40)
    with torch.inference_mode():
        output = model(input_ids=without["input_ids"])
    assert (output.start_logits - plain(**without).start_logits).abs().max() < 1e-4


def test_one_head_is_not_taken_for_a_mask_alone(tmp_path):
    made = family.dense("mpnet", hidden=16, heads=1)
    model = checkpoint.load(made.write(tmp_path / "made")).model
    model.set_attn_implementation(attention.NAME)
    inputs = batch(20, left=9)
    with torch.inference_mode():
        output = model(**inputs)
    expected = made.logits(**{"ids": inputs["input_ids"], "mask": inputs["attention_mask"]})
    assert (output.start_logits - expected[0])[inputs["attention_mask"] == 1].abs().max() < 1e-4


def test_in_graphs_and_compiled(mpnet, plain):
    model = copy.deepcopy(mpnet.model)
    module = Graphs(Forward(model), bert.max_tokens(model), record_on_cpu)
    compiled = torch.compile(Forward(model), backend="eager", fullgraph=True, dynamic=False)
    for length in (1, 40, 512):
        assert difference(module, plain, batch(length)) < 1e-4
        assert difference(module, plain, batch(length, left=(length + 1) // 2)) < 1e-4
    assert difference(compiled, plain, batch(16, left=5)) < 1e-4
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype, most", [("fp32", 1e-5), ("fp16", 0.05), ("int8", 0.5)])
def test_packed(dtype, most, mpnet, plain, tmp_path):
    packed = checkpoint.load(saving.save_packed(mpnet, tmp_path / "packed", dtype))
    table = plain.mpnet.encoder.relative_attention_bias.weight
    assert torch.allclose(packed.model.bert.encoder.relative_attention_bias.weight, table, rtol=1e-3)
    assert difference(packed.model, plain, batch(300, left=200)) < most


def test_in_bf16(mpnet, plain):
    for name in runtimes.available("cpu"):
        assert difference(runtimes.build(name, mpnet, dtype="bf16"), plain, batch(150, left=99)) < 0.3


def test_positions_and_tokens_fit(mpnet):
    assert bert.max_tokens(mpnet.model) == 512
    with torch.inference_mode(), pytest.raises((IndexError, RuntimeError)):
        mpnet.model(torch.full((1, 513), 5))


@pytest.mark.parametrize(
    "model_type, settings, message",
    [
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64; supported: 32"),
        ("mpnet", {"pad_token_id": 0}, "pad_token_id 0; supported: 1"),
        ("mpnet", {"pad_token_id": None}, "pad_token_id is None; positions are counted from there"),
        ("mpnet", {"position_embedding_type": "relative_key"}, "'relative_key'; supported: 'absolute'"),
        ("mpnet", {"relative_attention_max_distance": 64}, "a mpnet has no such setting"),
        ("bert", {"relative_attention_num_buckets": 32}, "a bert has no such setting"),
        ("bert", {"position_embedding_type": "relative_key_query"}, "'relative_key_query'; supported: 'absolute'"),
    ],
)
def test_other_relative_positions_are_refused(model_type, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        checkpoint.load(family.dense(model_type).write(tmp_path / "made", **settings))


def test_a_table_that_is_missing_or_of_another_size_is_named(tmp_path):
    made = family.dense("mpnet")
    table = made.weights.pop("distances")
    name = "mpnet.encoder.relative_attention_bias.weight"
    with pytest.raises(InputError, match=f"missing: {name}"):
        checkpoint.load(made.write(tmp_path / "without"))
    made.weights["distances"] = table[:, :3]
    with pytest.raises(InputError, match=f"mismatched: {name} is 32x3, expected 32x4"):
        checkpoint.load(made.write(tmp_path / "narrow"))
