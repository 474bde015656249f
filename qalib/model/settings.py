"""The settings of a checkpoint: every key of its config.json is understood, harmless, or refused by name.

A key that is neither understood nor harmless could change what the model computes, and silently give wrong answers.
"""

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig, BertForQuestionAnswering
from transformers.activations import ACT2CLS

from qalib.model import bert, blocks
from qalib.model.architectures import ARCHITECTURES, Architecture
from qalib.utils.errors import InputError
from qalib.utils.files import read_json_object

# Sizes, by BERT's names, with the largest value accepted.
SIZES = {
    "vocab_size": 10_000_000, "hidden_size": 65_536, "num_hidden_layers": 1_000, "num_attention_heads": 65_536,
    "intermediate_size": 1_000_000, "max_position_embeddings": 1_000_000, "type_vocab_size": 65_536,
}  # fmt: skip
# Used in training only, with the largest value accepted; they are written back, so they must be numbers.
TRAINING_ONLY = {"hidden_dropout_prob": 1.0, "attention_probs_dropout_prob": 1.0, "initializer_range": 1e6}
ACTIVATIONS = sorted(ACT2CLS.keys() - {"prelu", "xielu"})  # these two have weights of their own
NO_NORM = "no_norm"  # nn_pruning's: weight * x + bias instead of LayerNorm
# Understood, with the values allowed; the first is the default.
CHOICES = {
    "layer_norm_type": ("layer_norm", NO_NORM),
    "gelu_patch": (False, True),
    "layer_norm_patch": (False,),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "num_labels": (2,),
    "_num_labels": (2,),
}
READ_ELSEWHERE = ("model_type", "architectures", "auto_map", "id2label", "hidden_act", "pruned_heads", "block_size")
# For training, for text generation, for heads other than question answering, for how the library runs a model and what
# it returns besides logits: none changes the logits of a question. `tie_word_embeddings` concerns the language model's
# head; the dtypes are those of the file, which is read as float32.
HARMLESS = frozenset(
    """
    _name_or_path transformers_version dtype torch_dtype use_bfloat16 return_dict use_return_dict output_attentions
    output_hidden_states use_cache output_past chunk_size_feed_forward gradient_checkpointing torchscript xla_device
    attn_implementation _attn_implementation _attn_implementation_internal _attn_implementation_autoset _commit_hash
    tf_legacy_loss tie_word_embeddings tie_encoder_decoder tie_weights_ initializer_range initializer_factor
    hidden_dropout_prob attention_probs_dropout_prob classifier_dropout qa_dropout seq_classif_dropout
    sinusoidal_pos_embds layer_norm_patch_steps gelu_patch_steps do_distill do_layer_distill
    label2id problem_type finetuning_task task_specific_params tokenizer_class prefix language name directionality
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    """.split()
)
DESCRIPTIVE = ("model_type", "architectures", "_name_or_path", "transformers_version")  # change nothing


def read(path: Path) -> tuple[dict[str, Any], Architecture]:
    """What config.json holds, and the architecture it names.

    Raises InputError if the architecture is unknown, or a key that may change the function is not understood.
    """
    settings = read_json_object(path, "of settings")
    if not isinstance(kind := settings.get("model_type"), str) or kind not in ARCHITECTURES:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise InputError(f"{path}: not supported: model_type {kind!r}; supported: {known}")
    architecture = ARCHITECTURES[kind]
    for key, value in settings.items():
        if value is not None and (why := _refused(key, value, architecture)):
            raise InputError(f"{path}: not supported: {key} {_short(value)}; {why}")
    activation = settings.get(architecture.config_key("hidden_act"), "gelu")
    if settings.get("gelu_patch") and activation not in ("gelu", "relu"):
        raise InputError(f"{path}: not supported: gelu_patch true with an activation that is neither gelu nor relu")
    return settings, architecture


def _refused(key: str, value: Any, architecture: Architecture) -> str:
    """Why a setting is refused: what would be supported, or that the key is unknown. "" if it is understood."""
    if good := CHOICES.get(key) or architecture.choices.get(key):
        known = value in good if isinstance(value, str | int | float) else False
        return "" if known else f"supported: {' or '.join(_plain(choice) for choice in good)}"
    if key == "architectures":
        names = value if isinstance(value, list) else [value]
        bad = [name for name in names if not _is_of_library(name, architecture)]
        return f"supported: {architecture.class_prefix}ForQuestionAnswering" if bad else ""
    if key == "auto_map":
        own = isinstance(value, dict) and "AutoModelForQuestionAnswering" not in value
        return "" if own else "code that comes with a model is never run"
    if key == "id2label":
        return "" if isinstance(value, dict) and len(value) == 2 else "supported: 2 labels, start and end"
    if key in ("dtype", "torch_dtype"):
        known = isinstance(value, str) and isinstance(getattr(torch, value.removeprefix("torch."), None), torch.dtype)
        return "" if known else "supported: a type of torch, as float32"
    if architecture.settings.get(key) == "hidden_act":
        known = isinstance(value, str) and value in ACTIVATIONS
        return "" if known else f"supported: {', '.join(ACTIVATIONS)}"
    if key in architecture.settings or key in READ_ELSEWHERE or key in HARMLESS:
        return ""
    return f"a {architecture.model_type} has no such setting, and it may change what the model computes"


def _is_of_library(name: Any, architecture: Architecture) -> bool:
    """Is it a class of transformers, or CoFi's, which computes the same from smaller matrices?"""
    if not isinstance(name, str) or not name.removeprefix("CoFi").startswith(architecture.class_prefix):
        return False
    return hasattr(transformers, name.removeprefix("CoFi"))


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def ignored_keys(settings: dict[str, Any], architecture: Architecture) -> list[str]:
    """The keys, sorted, that don't affect the logits of a question."""
    used = {key for key, ours in architecture.settings.items() if ours not in HARMLESS}
    used |= {*CHOICES, *architecture.choices, *READ_ELSEWHERE, *DESCRIPTIVE} - {"auto_map"}
    return sorted(key for key, value in settings.items() if value is not None and key not in used)


def to_bert_config(settings: dict[str, Any], architecture: Architecture, path: Path) -> BertConfig:
    """The settings as a BERT config, with the architecture's defaults filled in.

    Its `layer_norm_type` is "layer_norm" or "no_norm". Raises InputError for an impossible value.
    """
    found = dict(architecture.fixed_settings)
    for key, ours in architecture.settings.items():
        if key in settings:
            found[ours] = settings[key]
        if ours in SIZES:
            size = settings.get(key, 1)
            if type(size) is not int or not 1 <= size <= SIZES[ours]:
                raise InputError(f"{path}: {key} is {size!r}, expected at least 1 and at most {SIZES[ours]:,}")
    default = transformers.CONFIG_MAPPING[architecture.model_type]()
    for key, ours in architecture.settings.items():
        found.setdefault(ours, getattr(default, key))
    padding, known = found["pad_token_id"], found["vocab_size"]
    if padding is not None and not (type(padding) is int and 0 <= padding < known):
        raise InputError(f"{path}: pad_token_id is {padding!r}, expected at least 0 and less than vocab_size {known}")
    if architecture.positions_after_padding and (padding is None or padding + 1 >= found["max_position_embeddings"]):
        raise InputError(
            f"{path}: pad_token_id is {padding!r}; positions are counted from there, "
            f"and max_position_embeddings is {found['max_position_embeddings']}"
        )
    for ours, most in TRAINING_ONLY.items():
        value = found[ours]
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise InputError(
                f"{path}: {architecture.config_key(ours)} is {value}, expected at least 0 and at most {most:g}"
            )
    if settings.get("gelu_patch"):
        found["hidden_act"] = "relu"  # what GELU had turned into by the end of training
    try:
        config = BertConfig(**found)
    except Exception as error:  # the library validates with errors of its own
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a {architecture.model_type} config: {reason}") from None
    if not 0 < config.layer_norm_eps < 1:
        raise InputError(f"{path}: layer_norm_eps is {config.layer_norm_eps}, expected more than 0 and less than 1")
    config.layer_norm_type = settings.get("layer_norm_type") or CHOICES["layer_norm_type"][0]
    return config


def block_size(settings: dict[str, Any], config: BertConfig, width: int, path: Path) -> blocks.Block:
    """Height and width of the blocks in which weights are stored and multiplied; `width` is the encoder's.

    As stated, else the largest square block, at most 32 x 32, that divides the matrices. The units that were pruned may
    differ, see `granularity`. Raises InputError if the stated block does not divide the matrices.
    """
    inner = config.intermediate_size
    block = settings.get("block_size")
    if block is None:
        side = math.gcd(32, width, inner, config.hidden_size)
        return side, side
    if not (isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)):
        raise InputError(f"{path}: block_size is {block!r}, expected two positive whole numbers")
    height, across = block
    for key, size in (("hidden_size", config.hidden_size), ("hidden_size", width), ("intermediate_size", inner)):
        if size % height or size % across:
            raise InputError(f"{path}: block_size {block} does not divide {key} {size}")
    return height, across


def pruned_heads(settings: dict[str, Any], config: BertConfig, path: Path) -> dict[int, list[int]]:
    """The heads that were cut out, by layer. Raises InputError for layers or heads that the model doesn't have."""
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    listed = settings.get("pruned_heads") or {}
    if not isinstance(listed, dict):
        raise InputError(f"{path}: pruned_heads is {type(listed).__name__}, expected an object {{layer: [heads]}}")
    for layer, numbers in listed.items():
        if not (layer.isdecimal() and int(layer) < layers):
            raise InputError(f"{path}: pruned_heads names layer {layer!r}, but there are {layers} layers")
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < heads for n in numbers):
            raise InputError(
                f"{path}: pruned_heads of layer {layer} is {numbers!r}, expected numbers from 0 to {heads - 1}"
            )
    return {int(layer): sorted(set(numbers)) for layer, numbers in listed.items() if numbers}


def to_config_json(model: BertForQuestionAnswering, architecture: Architecture) -> dict[str, Any]:
    """The settings to write for a full-size model: those that affect what it computes, and the library's defaults.

    Nothing else from config.json is kept: some keys would make the library fetch and run code.
    """
    config = model.config
    own = {key: getattr(config, ours) for key, ours in architecture.settings.items()}
    own[architecture.config_key("hidden_size")] = config.num_attention_heads * bert.head_size(model)
    own["architectures"] = [f"{architecture.class_prefix}ForQuestionAnswering"]
    if config.layer_norm_type == NO_NORM:
        own["layer_norm_type"] = NO_NORM
    return transformers.CONFIG_MAPPING[architecture.model_type](**own).to_dict()
