"""Checkpoints: a full-size dense model with its origin, loaded by name.

Only `formats`, `restore` and `saving` know how checkpoints are stored.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from qalib.model import architectures, bert, blocks, formats, hub, restore, settings, weight_files
from qalib.model.architectures import Architecture
from qalib.model.tokenizers import load_tokenizer
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, sha256
from qalib.utils.output import ShownInNotebooks

Complete = Callable[[dict[str, Tensor], Architecture, BertConfig], dict[str, Tensor]]
NEEDS_WEIGHTS = "needs weights"  # shown instead of results that random weights would make meaningless


@dataclass(repr=False)
class Checkpoint(ShownInNotebooks):
    """A model and where it came from.

    `model` is dense, full-size, float32 and in eval mode, with zeros where something was pruned; it is a BERT whatever
    the files' `architecture`. `weight_files` are one file, or an index and its shards. `pruned_heads` lists the heads,
    by layer, that are cut out of them. `revision` is the hub's commit hash (None for a folder). `meta` is what
    model_meta.json says about the training ({} without one). `settings` are those in config.json.
    """

    model: BertForQuestionAnswering
    block: blocks.Block
    name: str
    format: str
    folder: Path
    weight_files: tuple[Path, ...]
    revision: str | None = None
    pruned_heads: dict[int, list[int]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    architecture: Architecture = architectures.BERT
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        weights = [matrix.linear.weight.detach() for matrix in bert.matrices(self.model)]
        kept = sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)
        config, (height, width) = self.model.config, self.block
        return (
            f"Checkpoint {self.name} ({self.format}{f', revision {self.revision}' if self.revision else ''})\n"
            f"  {self.architecture.name}, {config.num_hidden_layers} layers of width {config.hidden_size}\n"
            f"  {kept:.1%} of the encoder's weights are not zero, in blocks of {height}x{width}"
        )

    @cached_property
    def tokenizer(self):
        """The fast tokenizer in the checkpoint's folder. Raises InputError if there is none or it doesn't fit."""
        tokenizer, known = load_tokenizer(self.folder), self.model.config.vocab_size
        if len(tokenizer) > known:
            raise InputError(f"{self.folder}: the tokenizer has {len(tokenizer):,} tokens, the model knows {known:,}")
        pair = tokenizer("a", "a").encodings[0]
        if (highest := max(*pair.ids, *tokenizer.get_vocab().values())) >= known:
            raise InputError(
                f"{self.folder}: the tokenizer has a token {highest:,}, the model knows those below {known:,}"
            )
        types, known = max(pair.type_ids, default=0), self.model.config.type_vocab_size
        if types >= known and hasattr(self.model.bert.embeddings, "token_type_embeddings"):
            raise InputError(f"{self.folder}: the tokenizer gives token types to {types}, the model knows {known}")
        return tokenizer

    def copy(self) -> "Checkpoint":
        """The same checkpoint with a copy of the model, which can be changed; all else is shared, the tokenizer too."""
        made = copy.copy(self)
        made.model = copy.deepcopy(self.model)
        return made

    @property
    def weight_file(self) -> Path:
        """The weight file, or the index of its shards."""
        return self.weight_files[0]

    @cached_property
    def sha256(self) -> str:
        """Hash of the weight file; with shards, of all files' hashes in hexadecimal digits."""
        digests = [sha256(path) for path in self.weight_files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

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
        """Size of the weight file, or of index and shards."""
        return sum(path.stat().st_size for path in self.weight_files)


def load(source: str | Path = "bundled", complete: Complete | None = None) -> Checkpoint:
    """Load `bundled`, a folder, or a hub id with an optional `@revision`.

    `complete` adds to the file's tensors, by its own names, what an answering model has besides (see `encoders`).
    Raises InputError, naming file and value, for anything that is not a question-answering checkpoint of one of the
    `architectures` in one of the `formats`.
    """
    name, folder, revision = hub.locate(str(source))
    path = folder / "config.json"
    read, architecture = settings.read(path)
    config = settings.to_bert_config(read, architecture, path)
    listed = settings.pruned_heads(read, config, path)
    paths, state = weight_files.read(folder)
    weight_file = paths[0]
    state = complete(state, architecture, config) if complete else state
    state = {architecture.to_bert(key): state.pop(key) for key in list(state)}
    packed = weight_file.name == formats.PACKED
    width = formats.encoder_width(state, config)
    block = settings.block_size(read, config, width, path)
    restore.require_plausible_sizes(state, config, architecture.config_key, width, path)
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
        weight_files=paths,
        revision=revision,
        pruned_heads=heads,
        meta=meta if isinstance(meta, dict) else {},
        architecture=architecture,
        settings=read,
    )
