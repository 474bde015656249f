"""The file formats of checkpoints: from the tensors of weight files (see `weight_files`) to a model.

| format         | weight file                                | what is stored                                  |
|----------------|--------------------------------------------|-------------------------------------------------|
| `transformers` | `model.safetensors` or `pytorch_model.bin` | every weight at full size, zero blocks included |
| `2021`         | the same, `pruned_heads` in config.json    | all but the rows and columns of the listed heads |
| `resized`      | the same, smaller than config.json says    | smaller matrices, see `restore`                 |
| `packed`       | `model.packed.safetensors`                 | only the kept blocks of the encoder matrices    |

A packed file has version 1 (`X.weight.blocks`, `X.weight.bitmap`, floating point), 2 (int8 blocks and embeddings, each
with `.scales`, see `quantization`) or 3 (rows and columns of zeros left out of some matrices, `X.weight.rows` and
`X.weight.columns`; with `.scales` or without); its header says which, and all can be read.

Nothing in a checkpoint is ever executed, and no weight is made up: a missing, unexpected or mismatched key is an error.
"""

import json
from pathlib import Path

import safetensors
import torch
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from qalib.model import bert, blocks, quantization
from qalib.model.architectures import Architecture
from qalib.model.settings import NO_NORM
from qalib.utils.errors import InputError, one_line

PACKED, SAFETENSORS, PICKLED = "model.packed.safetensors", "model.safetensors", "pytorch_model.bin"
PACKED_VERSIONS = {1: "qalib-packed", 2: "qalib-packed-2", 3: "qalib-packed-3"}  # what the file's header says
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Keys in files of 2019-2021 that BertForQuestionAnswering has no use for; the last two are left over from CoFi's
# training.
UNUSED_KEYS = (
    "bert.embeddings.position_ids", "bert.pooler.dense.weight", "bert.pooler.dense.bias",
    "layer_transformation.weight", "layer_transformation.bias",
)  # fmt: skip


def encoder_width(state: dict[str, Tensor], config: BertConfig) -> int:
    """Width of the encoder, from the word embeddings or, failing that, from the config."""
    words = state.get("bert.embeddings.word_embeddings.weight")
    return words.shape[1] if words is not None and words.ndim == 2 and words.shape[1] else config.hidden_size


def unpack(
    state: dict[str, Tensor],
    config: BertConfig,
    architecture: Architecture,
    block: blocks.Block,
    width: int,
    path: Path,
) -> dict[str, Tensor]:
    """The tensors of a packed file, encoder matrices at full size. Raises InputError if anything does not fit."""
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata() or {}
    if header.get("format") not in PACKED_VERSIONS.values():
        known = ", ".join(map(repr, PACKED_VERSIONS.values()))
        raise InputError(f"{path}: its header says {json.dumps(header)}; formats supported: {known}")
    state = dict(state)
    for key in [name.removesuffix(".scales") for name in state if name.endswith(".scales")]:
        if key in state:  # if not, `build_model` reports the scales as unexpected
            try:
                state[key] = quantization.dequantize(state[key], state.pop(f"{key}.scales"))
            except ValueError as error:
                raise InputError(f"{path}: {architecture.from_bert(key)}: {error}") from None
    for layer in range(config.num_hidden_layers):
        for kind, suffix in bert.LINEAR_LAYERS.items():
            key = f"bert.encoder.layer.{layer}.{suffix}.weight"
            if f"{key}.blocks" in state and f"{key}.bitmap" in state:  # if not, `build_model` names it
                try:
                    state[key] = _unpacked(state, key, bert.matrix_shape(kind, config, width), block)
                except ValueError as error:
                    raise InputError(f"{path}: {architecture.from_bert(key)}: {error}") from None
    return state


def _unpacked(state: dict[str, Tensor], key: str, shape: tuple[int, int], block: blocks.Block) -> Tensor:
    """An encoder matrix of this shape, from the tensors that hold it, which are taken out of `state`."""
    values, kept = state.pop(f"{key}.blocks"), state.pop(f"{key}.bitmap")
    lines = [state.pop(name) for name in (f"{key}.rows", f"{key}.columns") if name in state]
    if not lines:
        weight = blocks.unpack(values, kept, shape)
    elif len(lines) == 1:
        raise ValueError("one of rows and columns is there, the other is missing")
    else:
        rows, columns = (
            blocks.from_bitmap(packed, (side,), "lines") for packed, side in zip(lines, shape, strict=True)
        )
        height, width = (-(-int(left.sum()) // by) * by for left, by in zip((rows, columns), block, strict=True))
        weight = blocks.insert_zero_lines(blocks.unpack(values, kept, (height, width)), rows, columns)
    if values.shape[1:] != block:
        raise ValueError(f"blocks of {tuple(values.shape[1:])}, but config.json says block_size {block}")
    return weight


def build_model(
    config: BertConfig, architecture: Architecture, state: dict[str, Tensor], path: Path, width: int | None = None
) -> BertForQuestionAnswering:
    """The model with exactly these weights, in float32; those already in float32 are not copied.

    `state`, by BERT's names, is changed: its tensors are converted one by one, so that there are never two copies of
    all; those that share memory are separated. `width` is the encoder's, where it differs from the config's number of
    heads times their size.
    Raises InputError naming every kind of misfit, before any memory is allocated for what the config claims.
    """
    try:
        with torch.device("meta"):
            model = architecture.build(config)
            if width not in (None, config.hidden_size):
                bert.resize(model, width)
            if config.layer_norm_type == NO_NORM:
                bert.replace_layer_norms(model)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{path.parent / 'config.json'}: not a model that can be built: {one_line(error)}") from None
    for key in UNUSED_KEYS:
        state.pop(key, None)
    expected, name = model.state_dict(), architecture.from_bert
    alike = sorted(key for key in expected.keys() & state.keys() if state[key].shape == expected[key].shape)
    floating = [key for key in alike if state[key].dtype in FLOATS]
    problems = {
        "missing": [name(key) for key in sorted(expected.keys() - state.keys())],
        "unexpected": [name(key) for key in sorted(state.keys() - expected.keys())],
        "mismatched": [
            f"{name(key)} is {'x'.join(map(str, state[key].shape)) or 'one number'}, "
            f"expected {'x'.join(map(str, expected[key].shape))}"
            for key in sorted((expected.keys() & state.keys()) - set(alike))
        ],
        "not floating point": [f"{name(key)} is {state[key].dtype}" for key in alike if key not in floating],
        "not finite in float32": [name(key) for key in floating if not _is_finite(state[key])],
    }
    if found := [f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys]:
        raise InputError(f"{path}: does not fit {architecture.class_prefix}ForQuestionAnswering; {'; '.join(found)}")
    storages = set()
    for key in state:
        value = state[key].float().contiguous()
        shared = value.untyped_storage().data_ptr() in storages  # as tied tensors in a pickle
        state[key] = value.clone() if shared else value
        storages.add(state[key].untyped_storage().data_ptr())
    model.load_state_dict(state, assign=True)
    embeddings, places = model.bert.embeddings, torch.arange(config.max_position_embeddings)[None]
    embeddings.register_buffer("position_ids", places, persistent=False)
    if hasattr(embeddings, "token_type_ids"):
        embeddings.register_buffer("token_type_ids", torch.zeros_like(places), persistent=False)
    return model.requires_grad_().eval()


def _is_finite(values: Tensor) -> bool:
    """Are all values finite in float32? Checked in parts, as a copy of the whole may not fit in memory."""
    return all(part.float().isfinite().all() for part in values.flatten().split(1_000_000))


def _some(keys: list[str], limit: int = 5) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
