"""Checkpoints: loading a full-size dense model, with its origin, by name, and saving it.

Only `formats` and this file know how checkpoints are stored.
"""

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering

from qalib.model import architectures, bert, blocks, formats, hub, quantization, restore, settings
from qalib.model.architectures import Architecture
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import atomic_folder, read_json, sha256, write_json
from qalib.utils.paths import BUNDLED
from qalib.utils.quantity import measure

NEEDS_WEIGHTS = "needs weights"  # shown instead of results that random weights would make meaningless
MIN_TOKENS = 16  # the least model_max_length, in tokens, that a tokenizer may have
# Types of a packed file; int8 holds its blocks and embeddings in int8 and the little that is left in fp16.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float16}
# What model_meta.json may say about a checkpoint: unit, definition, and the path of keys to it.
META_FIELDS = {
    "license": ("text", "licence of the weights (SPDX name)", ("license",)),
    "notice": ("text", "what the weights derive from, with licences", ("notice",)),
    "base_model": ("text", "model that training started from", ("base_model",)),
    "method": ("text", "how it was pruned", ("method",)),
    "teacher": ("text", "model it was distilled from", ("teacher", "name")),
    "teacher_data": ("text", "question set that the teacher's scores were measured on", ("scores", "data", "name")),
    "teacher_exact_match": ("%", "exact match of the teacher, by this package", ("scores", "teacher", "exact_match")),
    "teacher_f1": ("%", "F1 of the teacher, by this package", ("scores", "teacher", "f1")),
    "train_data": ("text", "question set it was trained on", ("data", "name")),
    "train_data_version": ("text", "SQuAD version of the training set", ("data", "version")),
    "train_questions": ("count", "questions in the training set", ("data", "questions")),
    "train_windows": ("count", "windows in the training set", ("data", "windows")),
    "windows_seen": ("count", "windows seen in training, repeats counted", ("windows_seen",)),
    "training_seconds": ("s", "wall-clock time of the training", ("training_seconds",)),
    "twin_of": ("text", "published model whose structure it has; its own weights are random", ("twin_of",)),
    "twin_structure": ("text", "which parts of the structure are that model's and which were drawn", ("structure",)),
}


@dataclass
class Checkpoint:
    """A model and where it came from.

    `model` is dense, full-size, float32 and in eval mode, with zeros where something was pruned. `pruned_heads` lists
    the heads, by layer, that are cut out of the file. `revision` is the hub's commit hash (None for a folder).
    `meta` is what model_meta.json says about the training ({} without one). `model` is a BERT whatever the files'
    `architecture`; `settings` are those in config.json.
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
    architecture: Architecture = architectures.BERT
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def tokenizer(self):
        """The fast tokenizer in the checkpoint's folder. Raises InputError if there is none or it doesn't fit."""
        tokenizer, known = _tokenizer(self.folder), self.model.config.vocab_size
        if len(tokenizer) > known:
            raise InputError(f"{self.folder}: the tokenizer has {len(tokenizer):,} tokens, the model knows {known:,}")
        types, known = max(tokenizer("a", "a").encodings[0].type_ids, default=0), self.model.config.type_vocab_size
        if types >= known and self.architecture is not architectures.DISTILBERT:  # which ignores them
            raise InputError(f"{self.folder}: the tokenizer gives token types to {types}, the model knows {known}")
        return tokenizer

    @cached_property
    def sha256(self) -> str:
        """Hash of the weight file."""
        return sha256(self.weight_file)

    @property
    def settings_ignored(self) -> list[str]:
        """Keys of config.json that do not affect what the model computes for a question."""
        return settings.ignored_keys(self.settings, self.architecture)

    @property
    def unscored(self) -> str:
        """Why its answers mean nothing: a structural twin's weights are random. "" for any other model."""
        return NEEDS_WEIGHTS if "twin_of" in self.meta else ""

    @property
    def file_bytes(self) -> int:
        """Size of the weight file."""
        return self.weight_file.stat().st_size


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, for a report."""

    model_name: str = measure("text", "name of the checkpoint: its folder, or its id on the hub")
    model_source: str = measure("text", "name to load it by")
    model_format: str = measure(
        "text",
        "file format: transformers (full size), 2021 (heads cut out), resized (smaller) or packed (kept blocks)",
    )
    model_revision: str = measure("text", "commit on the hub")
    model_sha256: str = measure("text", "SHA-256 of the weight file")
    architecture: str = measure("text", "kind of model: BERT, RoBERTa or DistilBERT")
    letter_case: str = measure("text", "whether the tokenizer tells English from english: cased or uncased")
    block: str = measure("text", "rows x columns of the blocks in which weights are stored and multiplied")
    layers: int = measure("count", "encoder layers")
    hidden_size: int = measure("count", "width of the encoder, unpruned")
    intermediate_size: int = measure("count", "FFN neurons per layer, unpruned")
    heads_per_layer: int = measure("count", "attention heads per layer, unpruned")


def describe(checkpoint: Checkpoint) -> Description:
    """The facts of a loaded checkpoint."""
    config = checkpoint.model.config
    return Description(
        model_name=checkpoint.name,
        model_source="bundled" if checkpoint.folder == BUNDLED else checkpoint.name,
        model_format=checkpoint.format,
        model_revision=checkpoint.revision or "not from the hub",
        model_sha256=checkpoint.sha256,
        architecture=checkpoint.architecture.name,
        letter_case=_letter_case(checkpoint),
        block="x".join(map(str, checkpoint.block)),
        layers=config.num_hidden_layers,
        hidden_size=config.num_attention_heads * bert.head_size(checkpoint.model),
        intermediate_size=config.intermediate_size,
        heads_per_layer=config.num_attention_heads,
    )


def _letter_case(checkpoint: Checkpoint) -> str:
    if not has_tokenizer(checkpoint.folder):
        return "unknown without a tokenizer"
    upper, lower = (checkpoint.tokenizer.tokenize(word) for word in ("English", "english"))
    return "uncased" if upper == lower else "cased"


def meta_fields(checkpoint: Checkpoint) -> dict[str, str | int | float | None]:
    """What model_meta.json says about the training, by the names in META_FIELDS; None where it says nothing."""
    found = {}
    for name, (_, _, path) in META_FIELDS.items():
        value = checkpoint.meta
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        found[name] = value if isinstance(value, str | int | float) else None
    return found


def load(source: str | Path = "bundled") -> Checkpoint:
    """Load `bundled`, a folder, or a hub id with an optional `@revision`.

    Raises InputError, naming file and value, for anything that is not a question-answering checkpoint of one of the
    `architectures` in one of the `formats`.
    """
    name, folder, revision = hub.locate(str(source))
    path = folder / "config.json"
    read, architecture = settings.read(path)
    config = settings.to_bert_config(read, architecture, path)
    listed = settings.pruned_heads(read, config, path)
    weight_file, state = formats.read_weights(folder)
    state = {architecture.to_bert(key): state.pop(key) for key in list(state)}
    packed = weight_file.name == formats.PACKED
    width = formats.encoder_width(state, config)
    block = settings.block_size(read, config, width, path)
    if packed:
        state, heads = formats.unpack(state, config, architecture, block, width, weight_file), {}
    else:
        whole = {key: value.shape for key, value in state.items()}
        state, heads = restore.full_size(state, listed, config, width, path)
        resized = not listed and (width != config.hidden_size or whole != {k: v.shape for k, v in state.items()})
    meta = read_json(folder / "model_meta.json") if (folder / "model_meta.json").exists() else {}
    return Checkpoint(
        model=formats.build_model(config, architecture, state, weight_file, width),
        block=block,
        name=name,
        format="packed" if packed else "2021" if listed else "resized" if resized else "transformers",
        folder=folder,
        weight_file=weight_file,
        revision=revision,
        pruned_heads=heads,
        meta=meta if isinstance(meta, dict) else {},
        architecture=architecture,
        settings=read,
    )


def save_packed(checkpoint: Checkpoint, out: Path | str, dtype: str = "fp16") -> Path:
    """Write the kept blocks only, with config, tokenizer and model_meta.json; `dtype` is fp16, fp32 or int8.

    Each encoder matrix `X.weight` becomes `X.weight.blocks`, shape `(kept, height, width)`, and `X.weight.bitmap`
    (see `blocks.pack`). In int8, blocks and embeddings have one scale per row, `X.scales` (see `quantization`). Raises
    InputError if `out` is not empty or a weight does not fit the type.
    """
    if dtype not in DTYPES:
        raise InputError(f"cannot pack as {dtype!r}; choose one of {', '.join(DTYPES)}")
    name = checkpoint.architecture.from_bert
    state = {name(key): value for key, value in checkpoint.model.state_dict().items()}
    many = {name(key) for key in state if key.startswith("bert.embeddings.") and key.endswith("embeddings.weight")}
    for matrix in bert.matrices(checkpoint.model):
        key = name(f"{matrix.name}.weight")
        state[f"{key}.blocks"], state[f"{key}.bitmap"] = blocks.pack(state.pop(key), checkpoint.block)
        many.add(f"{key}.blocks")
    for key, value in list(state.items()):
        if dtype == "int8" and key in many:
            state[key], state[f"{key}.scales"] = quantization.quantize(value)
        elif value.is_floating_point():
            state[key] = value.to(DTYPES[dtype]).contiguous()
            if not state[key].isfinite().all():
                raise InputError(f"{checkpoint.name}: {key} has a value that {dtype} cannot hold; pack as fp32")
    with atomic_folder(out) as draft:
        _save_tensors(state, draft / formats.PACKED, "qalib-packed-2" if dtype == "int8" else "qalib-packed")
        save_config_and_tokenizer(checkpoint, draft)
    return Path(out)


def save_transformers(checkpoint: Checkpoint, out: Path | str) -> Path:
    """Write every weight at full size, in float32, for plain transformers to load.

    `not_for_transformers` names the models that it cannot run. Raises InputError if `out` is not empty.
    """
    with atomic_folder(out) as draft:
        name = checkpoint.architecture.from_bert
        state = {name(key): value.contiguous() for key, value in checkpoint.model.state_dict().items()}
        _save_tensors(state, draft / formats.SAFETENSORS, "pt")
        save_config_and_tokenizer(checkpoint, draft)
    return Path(out)


def not_for_transformers(checkpoint: Checkpoint) -> str:
    """Why plain transformers cannot run what `save_transformers` writes; "" if it can."""
    model = checkpoint.model
    if model.config.layer_norm_type == settings.NO_NORM:
        return "plain transformers would use LayerNorm where this model has NoNorm, and give wrong answers"
    if (width := model.config.hidden_size) != model.config.num_attention_heads * bert.head_size(model):
        return f"plain transformers has no BERT of width {width} with heads of {bert.head_size(model)}"
    return ""


def _save_tensors(state: dict[str, torch.Tensor], path: Path, form: str) -> None:
    try:
        safetensors.torch.save_file(state, path, metadata={"format": form})  # one only: the order of several varies
    except safetensors.SafetensorError as error:  # a full disk, say
        raise InputError(f"{path}: cannot be written: {one_line(error)}") from None
    path.chmod(0o644)  # the library's files are readable by their owner only


def save_config_and_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what goes with the weights: config, and if present tokenizer, model_meta.json, LICENSE and NOTICE."""
    config = settings.to_config_json(checkpoint.model, checkpoint.architecture)
    write_json(folder / "config.json", config | {"block_size": list(checkpoint.block), "dtype": "float32"})
    if has_tokenizer(checkpoint.folder):
        checkpoint.tokenizer.save_pretrained(folder)
    if checkpoint.meta:
        write_json(folder / "model_meta.json", checkpoint.meta)
    for notice in ("LICENSE", "NOTICE"):
        if (checkpoint.folder / notice).exists():
            shutil.copy(checkpoint.folder / notice, folder)


def has_tokenizer(folder: Path) -> bool:
    """Does the folder have the files of a fast tokenizer?"""
    ways = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))  # the last is RoBERTa's
    return any(all((folder / name).exists() for name in names) for names in ways)


def _tokenizer(folder: Path):
    if not has_tokenizer(folder):
        wanted = "tokenizer.json, vocab.txt, and vocab.json with merges.txt (`qalib twin` takes them from --vocabulary)"
        raise InputError(f"{folder}: no tokenizer there; looked for {wanted}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{folder}: the tokenizer cannot be read: {one_line(error)}") from None
    if not (isinstance(most := tokenizer.model_max_length, int | float) and most >= MIN_TOKENS):
        raise InputError(f"{folder}: the tokenizer's model_max_length is {most!r}, expected at least {MIN_TOKENS}")
    return tokenizer
