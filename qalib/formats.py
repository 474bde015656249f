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

from qalib import blocks, encoder
from qalib.errors import InputError, one_line
from qalib.files import read_json

PACKED, SAFETENSORS, PICKLED = "model.packed.safetensors", "model.safetensors", "pytorch_model.bin"
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# What a 2019-2021 file may hold beside the weights of BertForQuestionAnswering, which has no use for it.
UNUSED = ("bert.embeddings.position_ids", "bert.pooler.dense.weight", "bert.pooler.dense.bias")


def settings(path: Path) -> dict[str, Any]:
    """What config.json holds. Raises InputError if it is not that of a BERT."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected an object of settings, found {type(settings).__name__}")
    if settings.get("model_type") != "bert":
        raise InputError(f"{path}: not supported: model_type {settings.get('model_type')!r}; supported: 'bert'")
    return settings


def config(settings: dict[str, Any], path: Path) -> BertConfig:
    """The settings as the library's config, defaults filled in. Raises InputError for a value that cannot be."""
    try:
        config = BertConfig(**{k: v for k, v in settings.items() if k not in ("pruned_heads", "dtype", "torch_dtype")})
    except Exception as error:  # the library validates with errors of its own
        raise InputError(f"{path}: not a BERT config: {one_line(error)}") from None
    for key in SIZES:
        if (size := getattr(config, key)) < 1:
            raise InputError(f"{path}: {key} is {size}, expected at least 1")
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
    shapes = dict.fromkeys(encoder.KINDS, (hidden, hidden)) | {"FFN in": (ffn, hidden), "FFN out": (hidden, ffn)}
    state = dict(state)
    for layer in range(config.num_hidden_layers):
        for kind, suffix in encoder.KINDS.items():
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
            name, across = f"bert.encoder.layer.{layer}.{encoder.KINDS[kind]}", kind == "attention output"
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
    """The model with exactly these weights, in float32. Raises InputError naming every kind of misfit."""
    try:
        model = BertForQuestionAnswering(config)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{path.parent / 'config.json'}: not a model that can be built: {one_line(error)}") from None
    state = {key: value for key, value in state.items() if key not in UNUSED}
    expected = model.state_dict()
    alike = sorted(key for key in expected.keys() & state.keys() if state[key].shape == expected[key].shape)
    floating = [key for key in alike if state[key].is_floating_point()]
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "mismatched": [
            f"{key} is {'x'.join(map(str, state[key].shape)) or 'one number'}, "
            f"expected {'x'.join(map(str, expected[key].shape))}"
            for key in sorted((expected.keys() & state.keys()) - set(alike))
        ],
        "not floating point": [f"{key} is {state[key].dtype}" for key in alike if key not in floating],
        "not finite in float32": [key for key in floating if not state[key].float().isfinite().all()],
    }
    if found := [f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys]:
        raise InputError(f"{path}: does not fit BertForQuestionAnswering; {'; '.join(found)}")
    model.load_state_dict(state)
    return model.eval()


def _some(keys: list[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
