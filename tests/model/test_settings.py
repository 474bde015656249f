"""One setting changed at a time: the model computes what the setting says, or is refused by its name."""

import json
import re

import family
import pytest
from test_family import difference

from qalib import runtimes
from qalib.model import checkpoint, saving
from qalib.model.settings import SIZES
from qalib.utils.errors import InputError
from qalib.utils.files import read_json

CHANGES_NOTHING = {
    "chunk_size_feed_forward": 16,
    "classifier_dropout": 0.3,
    "hidden_dropout_prob": 0.4,
    "attention_probs_dropout_prob": 0.4,
    "initializer_range": 2.0,
    "problem_type": "regression",
    "tie_word_embeddings": False,
    "use_cache": False,
    "output_attentions": True,
    "torch_dtype": "float16",
    "gradient_checkpointing": True,
    "task_specific_params": {"qa": {"max_length": 8}},
    "directionality": "bidi",
    "num_beams": 4,
}
UNDERSTOOD = {
    "hidden_act": [
        "gelu", "gelu_new", "gelu_10", "gelu_python", "quick_gelu", "relu", "relu6", "silu", "tanh", "sigmoid", "linear"
    ],
    "layer_norm_type": ["no_norm"],
    "layer_norm_eps": [1e-12, 0.5],
    "gelu_patch": [False, True],
    "num_attention_heads": [2, 8],
    "position_embedding_type": ["absolute"],
    "pad_token_id": [3],
    "is_decoder": [False],
    "num_labels": [2],
}  # fmt: skip
REFUSED = {
    "hidden_act": ["prelu", "swoosh", {"name": "gelu"}],
    "layer_norm_type": ["rms_norm", True],
    "layer_norm_patch": [True],
    "position_embedding_type": ["relative_key", "relative_key_query", "rotary"],
    "is_decoder": [True],
    "is_encoder_decoder": [True],
    "add_cross_attention": [True],
    "cross_attention_hidden_size": [64],
    "num_labels": [1, 3],
    "id2label": [{"0": "start", "1": "end", "2": "none"}],
    "embedding_size": [32],
    "rope_theta": [10000.0],
    "rope_scaling": [{"rope_type": "linear", "factor": 2.0}],
    "rope_parameters": [{"rope_theta": 10000.0}],
    "quantization_config": [{"load_in_8bit": True}],
    "per_layer_config": [{"1": {"intermediate_size": 64}}],
    "attention_bias": [False],
    "attention_type": ["block_sparse"],
    "attention_window": [[8, 8]],
    "block_per_row": [4],
    "conv_kernel_size": [9],
    "expert_layers": [[1]],
    "fuse_norm": ["rms"],
    "inner_group_num": [2],
    "hidden_bias": [False],
    "layer_scale": [0.1],
    "normalization_type": ["no_norm"],
    "num_feedforward_networks": [4],
    "num_hidden_groups": [1],
    "parameter_sharing": [True],
    "position_biased_input": [False],
    "quant_mode": [True],
    "relative_attention": [True],
    "residual_scale": [0.5],
    "rotary_value": [True],
    "share_att_key": [True],
    "softmax_one": [True],
    "talking_heads": [True],
    "true_hidden_size": [32],
    "trigram_input": [True],
    "use_bottleneck": [True],
    "mask_scale": [0.0],
    "head_dim": [8],
    "num_key_value_heads": [2],
    "sliding_window": [4],
    "pre_norm": [True],
    "pruning_method": ["topK"],
    "auto_map": [{"AutoModelForQuestionAnswering": "modeling.Mine"}],
    "architectures": [["BertForMultiSpanAnswering"], ["RobertaForQuestionAnswering"]],
    "type_vocab_size": [0],
    "layer_norm_eps": [0.0, -1.0],
}


def cases(table):
    return [pytest.param(key, value, id=f"{key}={value}") for key, values in table.items() for value in values]


NAN = float("nan")
WRONG = (
    dict.fromkeys(SIZES, ["64", 64.5, -1, 0, True, NAN, [64], {}])
    | dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), ["0.1", -0.1, NAN, 1.5])
    | {
        "initializer_range": ["x", -1, NAN, float("inf")],
        "layer_norm_eps": ["1e-12", NAN, float("inf"), 2, [1e-12], True],
        "pad_token_id": [-1, "0", 3.5, 60, NAN, True],
        "num_labels": ["2", 2.5, -2, NAN, [2]],
        "is_decoder": ["false", 1, NAN],
        "gelu_patch": ["true", 2, NAN],
        "hidden_act": [5, "", NAN, ["gelu"]],
        "id2label": [["a", "b"], "ab", {"0": "a"}, 2],
        "architectures": [5, "Bert", [None], {}],
        "block_size": ["8", [8], [8, -8], [0, 0], [8.0, 8], [7, 8], [8, 8, 8], 8],
        "pruned_heads": [
            [[0]], "0", {"0": 1}, {"x": [0]}, {"-1": [0]}, {"9": [0]}, {"0": [4]}, {"0": [-1]}, {"0": ["1"]},
            {"0": [1.0]}, {"0": [True]},
        ],
        "position_embedding_type": [0, ["absolute"], "Absolute"],
        "model_type": ["BERT", 5, ["bert"], "albert"],
    }
)  # fmt: skip


def test_there_are_forty_settings_that_change_what_is_computed():
    assert len({*UNDERSTOOD, *REFUSED}) >= 40 and not {*UNDERSTOOD, *REFUSED} & CHANGES_NOTHING.keys()


@pytest.mark.parametrize("key, value", CHANGES_NOTHING.items())
def test_a_setting_that_changes_nothing_is_listed(key, value, tmp_path):
    made = family.dense()
    loaded = checkpoint.load(made.write(tmp_path / "made", **{key: value}))
    assert difference(made, loaded.model) < 1e-4
    assert loaded.settings_ignored == [key]


@pytest.mark.parametrize("key, value", cases(UNDERSTOOD))
def test_a_setting_that_is_understood_is_computed(key, value, tmp_path):
    made = family.dense(**{key: value})
    for layer in made.weights["layers"]:
        layer["FFN in"][0][:4] = 0  # so that `compact` cuts neurons, which have act(bias) for all tokens
        layer["FFN in"][0][4:] *= 4  # far enough for what differs only there
    folder = made.write(tmp_path / "made")
    for name in runtimes.available("cpu"):
        assert difference(made, runtimes.build(name, checkpoint.load(folder))) < 1e-4
    again = checkpoint.load(saving.save_transformers(checkpoint.load(folder), tmp_path / "again"))
    assert difference(made, again.model) < 1e-4
    assert key not in again.settings_ignored


@pytest.mark.parametrize("key, value", cases(REFUSED))
def test_a_setting_that_is_not_understood_is_refused_by_name(key, value, tmp_path):
    folder = family.dense().write(tmp_path / "made", **{key: value})
    with pytest.raises(InputError, match=rf"config.json: (not supported: )?{key} .*") as refused:
        checkpoint.load(folder)
    assert re.escape(repr(value))[:20].replace("\\", "") in str(refused.value)


@pytest.mark.parametrize("key", WRONG)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_key(key, tmp_path):
    folder = family.dense().write(tmp_path / "made")
    settings = read_json(folder / "config.json")
    for value in WRONG[key]:
        (folder / "config.json").write_text(json.dumps(settings | {key: value}))
        with pytest.raises(InputError, match=rf"config.json: .*{key}\b"):
            checkpoint.load(folder)


def test_the_activation_changes_the_answers():
    """What the tests above would pass if every activation were the same."""
    one = family.dense()
    other = family.dense(hidden_act="relu")
    assert difference(one, checkpoint_of(other)) > 0.01


def checkpoint_of(made):
    """A module that computes what `made` does."""

    def run(input_ids, attention_mask, token_type_ids):
        starts, ends = made.logits(input_ids, attention_mask, token_type_ids)
        return type("Output", (), {"start_logits": starts, "end_logits": ends})

    return run


@pytest.mark.parametrize("key, value", [("gelu_patch", True)])
def test_a_patched_activation_has_to_be_gelu(key, value, tmp_path):
    folder = family.dense(hidden_act="tanh", **{key: value}).write(tmp_path / "made")
    with pytest.raises(InputError, match="not supported: gelu_patch"):
        checkpoint.load(folder)


@pytest.mark.parametrize("key, value", [("activation", "relu"), ("hidden_size", 64), ("type_vocab_size", 2)])
def test_each_architecture_has_its_own_settings(key, value, tmp_path):
    made = family.dense("distilbert")
    if key == "activation":
        made.config["hidden_act"] = value
        assert difference(made, checkpoint.load(made.write(tmp_path / "made")).model) < 1e-4
    else:
        with pytest.raises(InputError, match=f"not supported: {key} {value}; a distilbert has no such setting"):
            checkpoint.load(made.write(tmp_path / "made", **{key: value}))
