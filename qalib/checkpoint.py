"""Checkpoints: from any of three file formats to one full-size dense model, and back.

| format         | weight file                                | what is stored                                   |
|----------------|--------------------------------------------|--------------------------------------------------|
| `transformers` | `model.safetensors` or `pytorch_model.bin` | every weight at full size, zero blocks included   |
| `2021`         | the same, `pruned_heads` in config.json    | rows and columns of the listed heads are cut out  |
| `packed`       | `model.packed.safetensors`                 | of the encoder matrices the kept blocks only      |

Nobody else in the package knows these formats. Nothing in a checkpoint is ever executed, and no weight is made up:
a missing, unexpected or mismatched key is an error.
"""

import json
import pickle
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import safetensors.torch
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

from qalib import blocks, encoder
from qalib.errors import InputError
from qalib.files import new_folder, read_json, sha256, write_json
from qalib.results import measure

BUNDLED = Path(__file__).resolve().parent.parent / "models" / "minilm-l6-squad-block-sparse"
PACKED, SAFETENSORS, PICKLED = "model.packed.safetensors", "model.safetensors", "pytorch_model.bin"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# What a 2019-2021 file may hold beside the weights of BertForQuestionAnswering, which has no use for it.
UNUSED = ("bert.embeddings.position_ids", "bert.pooler.dense.weight", "bert.pooler.dense.bias")

# What model_meta.json may say of a checkpoint: unit and definition.
STATED = {
    "license": ("text", "licence of the weights (SPDX name)"),
    "notice": ("text", "what the weights derive from, with licences"),
    "base_model": ("text", "model that training started from"),
    "method": ("text", "how it was pruned"),
    "teacher": ("text", "model it was distilled from"),
    "teacher_data": ("text", "question set that the teacher's scores were measured on"),
    "teacher_exact_match": ("%", "exact match of the teacher, measured by this package"),
    "teacher_f1": ("%", "F1 of the teacher, measured by this package"),
    "train_data": ("text", "question set it was trained on"),
    "train_questions": ("count", "questions of the training set"),
    "train_windows": ("count", "windows of the training set"),
}


@dataclass
class Checkpoint:
    """A model with where it came from.

    `model` is dense, full-size, float32 and in eval mode, with zeros where something was pruned. `pruned_heads` lists
    the heads, by layer, that were cut out in the file. `revision` is the hub's commit hash (None for a folder).
    `meta` is what model_meta.json says of the training ({} without one).
    """

    model: BertForQuestionAnswering
    block: blocks.Block
    name: str
    format: str
    folder: Path
    weight_file: Path
    revision: str | None = None
    pruned_heads: dict[int, list[int]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def tokenizer(self):
        """The fast tokenizer in the checkpoint's folder. Raises InputError if there is none."""
        return _tokenizer(self.folder)

    @cached_property
    def sha256(self) -> str:
        """Hash of the weight file."""
        return sha256(self.weight_file)

    @property
    def file_bytes(self) -> int:
        """Size of the weight file."""
        return self.weight_file.stat().st_size


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, for a report."""

    model_name: str = measure("text", "name of the checkpoint: its folder, or its id on the hub")
    model_source: str = measure("text", "what to load it by")
    model_format: str = measure(
        "text", "file format: transformers (full size), 2021 (heads cut out) or packed (kept blocks)"
    )
    model_revision: str = measure("text", "commit on the hub")
    model_sha256: str = measure("text", "SHA-256 of the weight file")
    block: str = measure("text", "rows x columns of a block")
    layers: int = measure("count", "encoder layers")
    hidden_size: int = measure("count", "width of the encoder")
    intermediate_size: int = measure("count", "FFN neurons a layer, unpruned")
    heads_per_layer: int = measure("count", "attention heads a layer, unpruned")


def describe(checkpoint: Checkpoint) -> Description:
    """The facts of a loaded checkpoint."""
    config = checkpoint.model.config
    return Description(
        model_name=checkpoint.name,
        model_source="bundled" if checkpoint.folder == BUNDLED else checkpoint.name,
        model_format=checkpoint.format,
        model_revision=checkpoint.revision or "not from the hub",
        model_sha256=checkpoint.sha256,
        block="x".join(map(str, checkpoint.block)),
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        heads_per_layer=config.num_attention_heads,
    )


def load(source: str | Path = "bundled") -> Checkpoint:
    """Load `bundled`, a folder, or a hub id with an optional `@revision`.

    Raises InputError, naming file and value, for anything that is not a BERT question-answering checkpoint in one of
    the three formats.
    """
    name, folder, revision = _locate(str(source))
    settings = _settings(folder / "config.json")
    weight_file, state = _read_weights(folder)
    packed = weight_file.name == PACKED
    heads = _pruned_heads(settings, folder / "config.json")
    config = _config(settings, folder / "config.json")
    state = {key: value for key, value in state.items() if key not in UNUSED}
    if packed:
        state = _unpack(state, weight_file)
    elif heads:
        state = _restore_heads(state, heads, config, folder / "config.json")
    meta = read_json(folder / "model_meta.json") if (folder / "model_meta.json").exists() else {}
    return Checkpoint(
        model=_fill(config, state, weight_file),
        block=_block(settings, folder / "config.json"),
        name=name,
        format="packed" if packed else "2021" if heads else "transformers",
        folder=folder,
        weight_file=weight_file,
        revision=revision,
        pruned_heads={} if packed else heads,
        meta=meta if isinstance(meta, dict) else {},
    )


def save_packed(checkpoint: Checkpoint, out: Path | str, dtype: str = "fp16") -> Path:
    """Write the kept blocks only, with config, tokenizer and model_meta.json; `dtype` is fp16 or fp32.

    Each encoder matrix `X.weight` becomes `X.weight.blocks`, shape `(kept, height, width)`, and `X.weight.bitmap`
    (see `blocks.pack`). Raises InputError if `out` is not empty or a weight does not fit the type.
    """
    if dtype not in DTYPES:
        raise InputError(f"cannot pack as {dtype!r}; choose one of {', '.join(DTYPES)}")
    state = dict(checkpoint.model.state_dict())
    for matrix in encoder.matrices(checkpoint.model):
        key = f"{matrix.name}.weight"
        state[f"{key}.blocks"], state[f"{key}.bitmap"] = blocks.pack(state.pop(key), checkpoint.block)
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = value.to(DTYPES[dtype]).contiguous()
            if not state[key].isfinite().all():
                raise InputError(f"{checkpoint.name}: {key} has a value that {dtype} cannot hold; pack as fp32")
    with new_folder(out) as draft:
        header = {"format": "qalib-packed", "block": "x".join(map(str, checkpoint.block)), "dtype": dtype}
        safetensors.torch.save_file(state, draft / PACKED, metadata=header)
        _save_beside(checkpoint, draft)
    return Path(out)


def save_transformers(checkpoint: Checkpoint, out: Path | str) -> Path:
    """Write what `AutoModelForQuestionAnswering.from_pretrained` of plain transformers loads: full size, float32.

    Raises InputError if `out` is not empty.
    """
    with new_folder(out) as draft:
        state = {key: value.contiguous() for key, value in checkpoint.model.state_dict().items()}
        safetensors.torch.save_file(state, draft / SAFETENSORS, metadata={"format": "pt"})
        _save_beside(checkpoint, draft)
    return Path(out)


def _save_beside(checkpoint: Checkpoint, folder: Path) -> None:
    config = checkpoint.model.config.to_dict()
    config.pop("pruned_heads", None)
    write_json(folder / "config.json", config | {"block_size": list(checkpoint.block), "dtype": "float32"})
    checkpoint.tokenizer.save_pretrained(folder)
    if checkpoint.meta:
        write_json(folder / "model_meta.json", checkpoint.meta)
    for notice in ("LICENSE", "NOTICE"):
        if (checkpoint.folder / notice).exists():
            shutil.copy(checkpoint.folder / notice, folder)


def _locate(source: str) -> tuple[str, Path, str | None]:
    if source == "bundled":
        if not BUNDLED.is_dir():
            raise InputError(
                f"{BUNDLED}: the bundled model is not there; it is part of the repository, not of the wheel"
            )
        return BUNDLED.name, BUNDLED, None
    path = Path(source)
    if path.is_dir():
        return path.resolve().name, path, None
    if path.exists():
        raise InputError(f"{source}: is a file; name the folder that holds config.json and the weights")
    identifier, _, revision = source.partition("@")
    if identifier.count("/") > 1 or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such folder")
    return identifier, *_download(identifier, revision or None)


def _download(identifier: str, revision: str | None) -> tuple[Path, str]:
    def fetch(*patterns: str) -> Path:
        return Path(huggingface_hub.snapshot_download(identifier, revision=revision, allow_patterns=list(patterns)))

    asked = f"{identifier}@{revision}" if revision else identifier
    try:
        folder = fetch("config.json", "model_meta.json", "*token*.json", "vocab.txt", "*.safetensors")
        if not (folder / SAFETENSORS).exists() and not (folder / PACKED).exists():
            folder = fetch("config.json", PICKLED)
    except LocalEntryNotFoundError:
        raise InputError(
            f"{asked}: no such folder, and the hub cannot be reached (or HF_HUB_OFFLINE is set) while its cache does "
            f"not have it; download it where there is a network, or name a folder"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"{asked}: no such folder, and the hub answers: {' '.join(str(error).split())}") from None
    return folder, folder.name


def _settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected an object of settings, found {type(settings).__name__}")
    if settings.get("model_type") != "bert":
        raise InputError(f"{path}: not supported: model_type {settings.get('model_type')!r}; supported: 'bert'")
    return settings


def _config(settings: dict[str, Any], path: Path) -> BertConfig:
    try:
        return BertConfig(**{k: v for k, v in settings.items() if k not in ("pruned_heads", "dtype", "torch_dtype")})
    except Exception as error:  # the library validates with errors of its own
        raise InputError(f"{path}: not a BERT config: {' '.join(str(error).split())}") from None


def _block(settings: dict[str, Any], path: Path) -> blocks.Block:
    block = settings.get("block_size", [32, 32])
    if not (isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)):
        raise InputError(f"{path}: block_size is {block!r}, expected two positive whole numbers")
    height, width = block
    for key in ("hidden_size", "intermediate_size"):
        if (size := settings.get(key, getattr(BertConfig(), key))) % height or size % width:
            raise InputError(f"{path}: block_size {block} does not divide {key} {size}")
    return height, width


def _pruned_heads(settings: dict[str, Any], path: Path) -> dict[int, list[int]]:
    layers = settings.get("num_hidden_layers", BertConfig().num_hidden_layers)
    heads = settings.get("num_attention_heads", BertConfig().num_attention_heads)
    result = {}
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
        if numbers:
            result[int(layer)] = sorted(set(numbers))
    return result


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    for name in (PACKED, SAFETENSORS, PICKLED):
        if (path := folder / name).exists():
            break
    else:
        raise InputError(f"{folder}: no weights there; looked for {PACKED}, {SAFETENSORS} and {PICKLED}")
    try:
        if name == PICKLED:
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        refused = " (only plain tensors are read; code in a pickle is never run)" if name == PICKLED else ""
        raise InputError(f"{path}: damaged, or not a weight file{refused}: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: expected a dictionary of tensors")
    return path, state


def _unpack(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata() or {}
    if header.get("format") != "qalib-packed":
        raise InputError(f"{path}: its header says {json.dumps(header)}, not format 'qalib-packed'")
    config = read_json(path.parent / "config.json")
    sizes = {"hidden": config["hidden_size"], "ffn": config["intermediate_size"]}
    shapes = {"FFN in": (sizes["ffn"], sizes["hidden"]), "FFN out": (sizes["hidden"], sizes["ffn"])}
    by_suffix = {f"{suffix}.weight": shapes.get(kind, (sizes["hidden"],) * 2) for kind, suffix in encoder.KINDS.items()}
    for key in [key.removesuffix(".bitmap") for key in state if key.endswith(".weight.bitmap")]:
        shape = next((s for suffix, s in by_suffix.items() if key.endswith(suffix)), None)
        if shape is None or f"{key}.blocks" not in state:
            raise InputError(f"{path}: {key}.bitmap belongs to no stored encoder matrix")
        try:
            state[key] = blocks.unpack(state.pop(f"{key}.blocks"), state.pop(f"{key}.bitmap"), shape)
        except ValueError as error:
            raise InputError(f"{path}: {key}: {error}") from None
    return state


def _restore_heads(
    state: dict[str, Tensor], heads: dict[int, list[int]], config: BertConfig, path: Path
) -> dict[str, Tensor]:
    """Scatter the small matrices of layers whose heads were cut out back into full-size zeros."""
    size = config.hidden_size // config.num_attention_heads
    state = dict(state)
    for layer, removed in heads.items():
        left = [h for h in range(config.num_attention_heads) if h not in removed]
        rows = torch.tensor([h * size + i for h in left for i in range(size)], dtype=torch.long)
        for kind in ("query", "key", "value", "attention output"):
            name = f"bert.encoder.layer.{layer}.{encoder.KINDS[kind]}"
            dimensions = {f"{name}.weight": int(kind == "attention output")}
            if kind != "attention output":
                dimensions[f"{name}.bias"] = 0
            for key, dimension in dimensions.items():
                if key not in state:
                    continue  # _fill names it
                if state[key].ndim <= dimension or state[key].shape[dimension] != len(rows):
                    raise InputError(
                        f"{path}: pruned_heads leaves layer {layer} {len(left)} heads of {size}, which does not fit "
                        f"{key} of shape {tuple(state[key].shape)}"
                    )
                shape = list(state[key].shape)
                shape[dimension] = config.hidden_size
                state[key] = state[key].new_zeros(shape).index_copy_(dimension, rows, state[key])
    return state


def _fill(config: BertConfig, state: dict[str, Tensor], path: Path) -> BertForQuestionAnswering:
    try:
        model = BertForQuestionAnswering(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{path.parent / 'config.json'}: {' '.join(str(error).split())}") from None
    expected = model.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "mismatched": [
            f"{key} is {'x'.join(map(str, state[key].shape))}, expected {'x'.join(map(str, expected[key].shape))}"
            for key in sorted(expected.keys() & state.keys())
            if state[key].shape != expected[key].shape
        ],
        "not finite": sorted(k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()),
    }
    if found := [f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys]:
        raise InputError(f"{path}: does not fit BertForQuestionAnswering; {'; '.join(found)}")
    model.load_state_dict(state)
    return model.eval()


def _some(keys: list[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _tokenizer(folder: Path):
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt")):
        raise InputError(f"{folder}: no tokenizer there; looked for tokenizer.json and vocab.txt")
    try:
        return AutoTokenizer.from_pretrained(folder, use_fast=True)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{folder}: the tokenizer cannot be read: {' '.join(str(error).split())}") from None
