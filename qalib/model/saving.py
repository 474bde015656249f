"""Saving a checkpoint: packed, with its kept blocks only, or at full size for plain transformers."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from qalib.model import bert, blocks, formats, quantization, settings
from qalib.model.checkpoint import Checkpoint
from qalib.model.tokenizers import has_tokenizer
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import atomic_folder, write_json
from qalib.utils.folders import copy_into

# Types of a packed file; int8 holds its blocks and embeddings in int8 and the little that is left in fp16.
PACKED_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float16}


def save_packed(checkpoint: Checkpoint, out: Path | str, dtype: str = "fp16") -> Path:
    """Write the kept blocks only, with config, tokenizer and model_meta.json; `dtype` is fp16, fp32 or int8.

    Each encoder matrix `X.weight` becomes `X.weight.blocks`, shape `(kept, height, width)`, and `X.weight.bitmap`
    and where it helps `X.weight.rows` and `X.weight.columns` (see `blocks.pack_tightly`). In int8, blocks and
    embeddings have one scale per row, `X.scales` (see `quantization`). A nonzero weight never becomes zero: one too
    small for fp16 is stored as its smallest value, 6e-8. Raises InputError if `out` is not empty or a weight is too
    large for the type.
    """
    if dtype not in PACKED_DTYPES:
        raise InputError(f"cannot pack as {dtype!r}; choose one of {', '.join(PACKED_DTYPES)}")
    name, by_bert = checkpoint.architecture.from_bert, checkpoint.model.state_dict()
    state = {name(key): value for key, value in by_bert.items()}
    many = {name(key) for key in by_bert if key.startswith("bert.embeddings.") and key.endswith("embeddings.weight")}
    for matrix in bert.matrices(checkpoint.model):
        key = name(f"{matrix.name}.weight")
        packed = blocks.pack_tightly(state.pop(key), checkpoint.block)
        state |= {f"{key}.{part}": tensor for part, tensor in packed.items()}
        many.add(f"{key}.blocks")
    for key, value in list(state.items()):
        if dtype == "int8" and key in many:
            state[key], state[f"{key}.scales"] = quantization.quantize(value)
        elif value.is_floating_point():
            state[key] = _nonzero_to(value, PACKED_DTYPES[dtype]).contiguous()
            if not state[key].isfinite().all():
                raise InputError(f"{checkpoint.name}: {key} has a value that {dtype} cannot hold; pack as fp32")
    with atomic_folder(out) as draft:
        without_lines = any(key.endswith(".rows") for key in state)
        version = 3 if without_lines else 2 if dtype == "int8" else 1  # the least that can be read
        _save_tensors(state, draft / formats.PACKED, formats.PACKED_VERSIONS[version])
        save_config_and_tokenizer(checkpoint, draft)
    return Path(out)


def _nonzero_to(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a type; nonzero values that round to zero take the smallest nonzero value of their sign."""
    cast, smallest = value.to(dtype), torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return torch.where((cast == 0) & (value != 0), value.sign().to(dtype) * smallest, cast)


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


def _save_tensors(state: dict[str, Tensor], path: Path, form: str) -> None:
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
            copy_into(checkpoint.folder / notice, folder)
