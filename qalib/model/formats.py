"""The file formats of checkpoints, read: settings from config.json, tensors from one of three kinds of weight file.

| format         | weight file                                | what is stored                                  |
|----------------|--------------------------------------------|-------------------------------------------------|
| `transformers` | `model.safetensors` or `pytorch_model.bin` | every weight at full size, zero blocks included |
| `2021`         | the same, `pruned_heads` in config.json    | rows and columns of the listed heads are cut out |
| `packed`       | `model.packed.safetensors`                 | of the encoder matrices the kept blocks only    |

Nothing in a checkpoint is ever executed, and no weight is made up: a missing, unexpected or mismatched key is an error.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from qalib.model import bert, blocks
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import read_json

PACKED, SAFETENSORS, PICKLED = "model.packed.safetensors", "model.safetensors", "pytorch_model.bin"
# The settings that are read, sizes with the largest that is believed. Others are left alone: some would have the
# library fetch code from the model hub and run it.
SIZES = {
    "vocab_size": 10_000_000, "hidden_size": 65_536, "num_hidden_layers": 1_000, "num_attention_heads": 65_536,
    "intermediate_size": 1_000_000, "max_position_embeddings": 1_000_000, "type_vocab_size": 65_536,
}  # fmt: skip
READ = (
    *SIZES, "architectures", "transformers_version", "hidden_act", "layer_norm_eps", "initializer_range",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "pad_token_id",
)  # fmt: skip
OTHER_MODELS = ("is_decoder", "add_cross_attention", "is_encoder_decoder")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What a 2019-2021 file may hold beside the weights of BertForQuestionAnswering, which has no use for it.
UNUSED = ("bert.embeddings.position_ids", "bert.pooler.dense.weight", "bert.pooler.dense.bias")


def settings(path: Path) -> dict[str, Any]:
    """What config.json holds. Raises InputError if it is not that of a BERT."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected an object of settings, found {type(settings).__name__}")
    if settings.get("model_type") != "bert":
        raise InputError(f"{path}: not supported: model_type {settings.get('model_type')!r}; supported: 'bert'")
    for key in OTHER_MODELS:
        if settings.get(key):
            raise InputError(f"{path}: not supported: {key} {settings[key]!r}; supported: false")
    return settings


def config(settings: dict[str, Any], path: Path) -> BertConfig:
    """The settings as the library's config, defaults filled in. Raises InputError for a value that cannot be."""
    for key, largest in SIZES.items():
        size = settings.get(key, 1)
        if type(size) is not int or not 1 <= size <= largest:
            raise InputError(f"{path}: {key} is {size!r}, expected at least 1 and at most {largest:,}")
    padding, known = settings.get("pad_token_id"), settings.get("vocab_size", BertConfig().vocab_size)
    if padding is not None and not (type(padding) is int and 0 <= padding < known):
        raise InputError(f"{path}: pad_token_id is {padding!r}, expected at least 0 and less than vocab_size {known}")
    try:
        config = BertConfig(**{key: settings[key] for key in READ if key in settings})
    except Exception as error:  # the library validates with errors of its own
        raise InputError(f"{path}: not a BERT config: {one_line(error)}") from None
    if not 0 < config.layer_norm_eps < 1:
        raise InputError(f"{path}: layer_norm_eps is {config.layer_norm_eps}, expected more than 0 and less than 1")
    return config


def block(settings: dict[str, Any], config: BertConfig, path: Path) -> blocks.Block:
    """Height and width of a block, 32 x 32 unless stated. Raises InputError if it does not divide the matrices."""
    block = settings.get("block_size", [32, 32])
    if not (isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)):
        raise InputError(f"{path}: block_size is {block!r}, expected two positive whole numbers")
    height, width = block
    for key in ("hidden_size", "intermediate_size"):
        if (size := getattr(config, key)) % height or size % width:
            raise InputError(f"{path}: block_size {block} does not divide {key} {size}")
    return height, width


def pruned_heads(settings: dict[str, Any], config: BertConfig, path: Path) -> dict[int, list[int]]:
    """The heads that were cut out, by layer. Raises InputError for layers or heads that the model has not."""
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


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The weight file that is there (packed before safetensors before pickled) and its tensors.

    Raises InputError if there is none, or it is damaged or holds anything but plain tensors.
    """
    for name in (PACKED, SAFETENSORS, PICKLED):
        if (path := folder / name).exists():
            break
    else:
        raise InputError(f"{folder}: no weights there; looked for {PACKED}, {SAFETENSORS} and {PICKLED}")
    try:
        if name == PICKLED:
            with warnings.catch_warnings(action="ignore"):  # of old pickles
                state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            state = safetensors.torch.load_file(path)
    except Exception as error:  # a damaged file can raise any kind, an index that is out of range for one
        refused = " (only plain tensors are read; code in a pickle is never run)" if name == PICKLED else ""
        said = re.search(r"^(?:Trying to load unsupported|Unsupported) .*", str(error), re.MULTILINE)  # of many lines
        reason = said.group() if said else one_line(error)
        raise InputError(f"{path}: damaged, or not a weight file{refused}: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise InputError(f"{path}: expected a dictionary of names and plain tensors")
    return path, state


def _is_plain(value: Any) -> bool:
    """Is it a tensor with all its numbers, not sparse, quantised or a mere shape?"""
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_quantized or value.is_meta)


def unpack(state: dict[str, Tensor], config: BertConfig, block: blocks.Block, path: Path) -> dict[str, Tensor]:
    """The tensors of a packed file with the encoder matrices at full size. Raises InputError for what does not fit."""
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata() or {}
    if header.get("format") != "qalib-packed":
        raise InputError(f"{path}: its header says {json.dumps(header)}, not format 'qalib-packed'")
    hidden, ffn = config.hidden_size, config.intermediate_size
    shapes = dict.fromkeys(bert.LINEAR_LAYERS, (hidden, hidden)) | {"FFN in": (ffn, hidden), "FFN out": (hidden, ffn)}
    state = dict(state)
    for layer in range(config.num_hidden_layers):
        for kind, suffix in bert.LINEAR_LAYERS.items():
            key = f"bert.encoder.layer.{layer}.{suffix}.weight"
            if f"{key}.blocks" in state and f"{key}.bitmap" in state:  # else `fill` names what is missing
                values, bitmap = state.pop(f"{key}.blocks"), state.pop(f"{key}.bitmap")
                try:
                    state[key] = blocks.unpack(values, bitmap, shapes[kind])
                    if values.shape[1:] != block:
                        raise ValueError(
                            f"blocks of {tuple(values.shape[1:])}, but config.json says block_size {block}"
                        )
                except ValueError as error:
                    raise InputError(f"{path}: {key}: {error}") from None
    return state


def restore_heads(
    state: dict[str, Tensor], heads: dict[int, list[int]], config: BertConfig, path: Path
) -> dict[str, Tensor]:
    """The tensors with the small matrices of layers whose heads were cut out scattered back into full-size zeros.

    Raises InputError if the heads left do not fit the shapes.
    """
    hidden, state = config.hidden_size, dict(state)
    size = hidden // config.num_attention_heads
    for layer, removed in heads.items():
        left = [h for h in range(config.num_attention_heads) if h not in removed]
        rows = torch.tensor([h * size + i for h in left for i in range(size)], dtype=torch.long)
        for kind in ("query", "key", "value", "attention output"):
            name, across = f"bert.encoder.layer.{layer}.{bert.LINEAR_LAYERS[kind]}", kind == "attention output"
            shapes = {f"{name}.weight": (hidden, len(rows)) if across else (len(rows), hidden)}
            if not across:
                shapes[f"{name}.bias"] = (len(rows),)
            for key, shape in shapes.items():
                if key not in state:
                    continue  # fill names it
                if state[key].shape != shape:
                    raise InputError(
                        f"{path}: pruned_heads leaves layer {layer} {len(left)} heads of {size}, which does not fit "
                        f"{key} of shape {tuple(state[key].shape)}"
                    )
                full = state[key].new_zeros([hidden] * len(shape))
                state[key] = full.index_copy_(int(across), rows, state[key])
    return state


def fill(config: BertConfig, state: dict[str, Tensor], path: Path) -> BertForQuestionAnswering:
    """The model with exactly these weights, in float32, those that are float32 already not copied.

    `state` is changed: its tensors give way one by one to those of the model, so that at no time all are there twice.
    Raises InputError naming every kind of misfit, before there is memory taken for what the config promises.
    """
    try:
        with torch.device("meta"):
            model = BertForQuestionAnswering(config)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{path.parent / 'config.json'}: not a model that can be built: {one_line(error)}") from None
    for key in UNUSED:
        state.pop(key, None)
    expected = model.state_dict()
    alike = sorted(key for key in expected.keys() & state.keys() if state[key].shape == expected[key].shape)
    floating = [key for key in alike if state[key].dtype in FLOATS]
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "mismatched": [
            f"{key} is {'x'.join(map(str, state[key].shape)) or 'one number'}, "
            f"expected {'x'.join(map(str, expected[key].shape))}"
            for key in sorted((expected.keys() & state.keys()) - set(alike))
        ],
        "not floating point": [f"{key} is {state[key].dtype}" for key in alike if key not in floating],
        "not finite in float32": [key for key in floating if not _is_finite(state[key])],
    }
    if found := [f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys]:
        raise InputError(f"{path}: does not fit BertForQuestionAnswering; {'; '.join(found)}")
    for key in state:
        state[key] = state[key].float().contiguous()
    model.load_state_dict(state, assign=True)
    embeddings, places = model.bert.embeddings, torch.arange(config.max_position_embeddings)[None]
    embeddings.position_ids, embeddings.token_type_ids = places, torch.zeros_like(places)
    return model.requires_grad_().eval()


def _is_finite(values: Tensor) -> bool:
    """Are all values finite in float32? Looked at a part at a time, as a copy of the whole may not fit."""
    return all(part.float().isfinite().all() for part in values.flatten().split(1_000_000))


def _some(keys: list[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
