"""Describing a checkpoint: what it is, and what its model_meta.json says about its training."""

from dataclasses import dataclass, field, fields
from typing import Any

from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.model.tokenizers import has_tokenizer
from qalib.utils.paths import BUNDLED
from qalib.utils.quantity import measure


def _stated(unit: str, definition: str, *path: str) -> Any:
    """A field of a TrainingRecord, with the path of keys to it in model_meta.json."""
    return field(
        metadata={"unit": unit, "definition": definition, "none": "not stated in model_meta.json", "path": path}
    )


@dataclass(frozen=True)
class TrainingRecord:
    """What model_meta.json says about the training of a checkpoint; None where it says nothing."""

    license: str | None = _stated("text", "licence of the weights (SPDX name)", "license")
    notice: str | None = _stated("text", "what the weights derive from, with licences", "notice")
    base_model: str | None = _stated("text", "model that training started from", "base_model")
    method: str | None = _stated("text", "how it was pruned", "method")
    teacher: str | None = _stated("text", "model it was distilled from", "teacher", "name")
    teacher_data: str | None = _stated(
        "text", "question set that the teacher's scores were measured on", "scores", "data", "name"
    )
    teacher_exact_match: float | None = _stated(
        "%", "exact match of the teacher, by this package", "scores", "teacher", "exact_match"
    )
    teacher_f1: float | None = _stated("%", "F1 of the teacher, by this package", "scores", "teacher", "f1")
    stated_f1: float | None = _stated(
        "%", "F1 of the checkpoint on that question set, by this package", "scores", "model", "f1"
    )
    stated_questions: int | None = _stated("count", "questions in that question set", "scores", "data", "questions")
    train_data: str | None = _stated("text", "question set it was trained on", "data", "name")
    train_data_version: str | None = _stated("text", "SQuAD version of the training set", "data", "version")
    train_questions: int | None = _stated("count", "questions in the training set", "data", "questions")
    train_windows: int | None = _stated("count", "windows in the training set", "data", "windows")
    windows_seen: int | None = _stated("count", "windows seen in training, repeats counted", "windows_seen")
    training_seconds: float | None = _stated("s", "wall-clock time of the training", "training_seconds")
    twin_of: str | None = _stated(
        "text", "published model whose structure it has; its own weights are random", "twin_of"
    )
    twin_structure: str | None = _stated(
        "text", "which parts of the structure are that model's and which were drawn", "structure"
    )


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
    architecture: str = measure("text", "kind of model: BERT, RoBERTa, DistilBERT or MPNet")
    letter_case: str = measure("text", "whether the tokenizer keeps upper case: cased or uncased")
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


def training_record(checkpoint: Checkpoint) -> TrainingRecord:
    """Read what model_meta.json says about the training."""
    values = {}
    for each in fields(TrainingRecord):
        value = checkpoint.meta
        for key in each.metadata["path"]:
            value = value.get(key) if isinstance(value, dict) else None
        values[each.name] = value if isinstance(value, str | int | float) else None
    return TrainingRecord(**values)
