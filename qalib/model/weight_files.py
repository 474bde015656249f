"""Weight files: the tensors in a checkpoint's folder, from one file or from shards, by the names of the bare model.

Training tools add to these names: wrappers such as DataParallel and `torch.compile` a prefix, `torch.nn.utils.prune` a
mask. Both are resolved here. Nothing in a file is ever executed.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from qalib.model.formats import PACKED, PICKLED, SAFETENSORS
from qalib.utils.errors import InputError, is_out_of_memory, one_line
from qalib.utils.files import read_json_object, require_file

INDEX = ".index.json"  # ending of the file that says which shard holds which tensor
ORDER = (PACKED, SAFETENSORS, SAFETENSORS + INDEX, PICKLED, PICKLED + INDEX)  # the first that exists is read
# Modules around a model: DataParallel and its distributed form, torch.compile, FSDP, activation checkpointing, Fabric.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
ATTRIBUTE = "model."  # where a LightningModule usually holds its model
STATE_DICTS = ("state_dict", "model_state_dict", "model")  # what training tools call the weights in their checkpoints
OLD_ENDINGS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}  # TensorFlow's names
ADVICE = "save its state_dict: torch.save(model.state_dict(), ...)"


def read(folder: Path) -> tuple[tuple[Path, ...], dict[str, Tensor]]:
    """Return a folder's weight files and their tensors, by the names of the bare model.

    Packed is preferred to safetensors, safetensors to pickled, and one file to shards. The first path is the weight
    file, or the index, with its shards after it. Raises InputError if there is none, a shard is missing, or a file is
    damaged or holds anything but plain tensors.
    """
    for name in ORDER:
        if (path := folder / name).exists():
            break
    else:
        raise InputError(f"{folder}: no weights there; looked for {', '.join(ORDER[:-1])} and {ORDER[-1]}")
    if name.endswith(INDEX):
        shards, state = _read_shards(path)
    else:
        shards, state = [], _read_file(path)
    return (path, *shards), _pruned(_unwrapped(state, path), path)


def _read_shards(index: Path) -> tuple[list[Path], dict[str, Tensor]]:
    """The shards that an index names, and their tensors."""
    weight_map = read_json_object(index, "with a weight_map").get("weight_map")
    if not (isinstance(weight_map, dict) and weight_map and all(isinstance(name, str) for name in weight_map.values())):
        raise InputError(f"{index}: expected a weight_map, an object {{tensor: file}}")
    ending = Path(index.name.removesuffix(INDEX)).suffix
    names, state = sorted(set(weight_map.values())), {}
    for name in names:
        if not re.fullmatch(rf"[^/\\\0]+{re.escape(ending)}", name):
            raise InputError(f"{index}: a shard must be a {ending} file in the same folder, but there is {name!r}")
        if not (index.parent / name).is_file():
            raise InputError(f"{index}: the shard {name} is missing; it must be in the same folder")
    shards = [index.parent / name for name in names]
    for shard in shards:
        tensors = _read_file(shard)
        if twice := state.keys() & tensors.keys():
            raise InputError(f"{shard}: {min(twice)} is in another shard, too")
        if absent := [key for key, name in weight_map.items() if name == shard.name and key not in tensors]:
            raise InputError(f"{shard}: {absent[0]} is not in it, but {index.name} says so")
        state |= tensors
    return shards, state


def _read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by the names in it."""
    require_file(path)
    pickled = path.suffix == Path(PICKLED).suffix
    try:
        if pickled:
            with warnings.catch_warnings(action="ignore"):  # about old pickles
                value = torch.load(path, map_location="cpu", weights_only=True)
        else:
            value = safetensors.torch.load_file(path)
    except Exception as error:  # a damaged file can raise any kind, such as IndexError
        if is_out_of_memory(error):
            raise
        refused = " (only plain tensors are read; code in a pickle is never run)" if pickled else ""
        raise InputError(f"{path}: damaged, or not a weight file{refused}: {_reason(error)}") from None
    return _state_dict(value, path)


def _reason(error: Exception) -> str:
    """Why a library refused a file, in one line: what torch gives is one of many."""
    if name := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        return f"it holds a pickled {name[1]}; if that is a whole model, {ADVICE}"
    line = re.search(r"^(?:Trying to load unsupported|Unsupported) .*", str(error), re.MULTILINE)
    return line.group() if line else one_line(error)


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors in a file's value, which may be a training tool's checkpoint around it."""
    named = [key for key in STATE_DICTS if isinstance(value, dict) and isinstance(value.get(key), dict)]
    if len(named) > 1:
        raise InputError(f"{path}: holds {' and '.join(named)}, but one model is expected; {ADVICE}")
    state = value[named[0]] if named else value
    expected = f"{path}: expected a dictionary of names and plain tensors"
    if not isinstance(state, dict):
        raise InputError(f"{expected}, found a {type(state).__name__}; if it has a model, {ADVICE}")
    for key, tensor in state.items():
        if not isinstance(key, str) or not _is_plain(tensor):
            raise InputError(f"{expected}, but {key!r} is {_kind(tensor)}; if it has a model, {ADVICE}")
    return {key: tensor.detach() for key, tensor in state.items()}


def _is_plain(value: Any) -> bool:
    """Is it a dense tensor with values, not nested, sparse, quantised or on the meta device?"""
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
        return False
    return not (value.is_nested or value.is_quantized or value.is_meta)


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    kinds = {"nested": value.is_nested, "quantised": value.is_quantized, "meta": value.is_meta}
    layout = str(value.layout).removeprefix("torch.")
    return f"a tensor ({', '.join([name for name, holds in kinds.items() if holds] or [layout])})"


def _unwrapped(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by their names without those of wrappers, however many and wherever they are."""
    bare: dict[str, Tensor] = {}
    within = bool(state) and all(_without_wrappers(key).startswith(ATTRIBUTE) for key in state)
    for key, tensor in state.items():
        name = _without_wrappers(key).removeprefix(ATTRIBUTE if within else "")
        name = next((name.removesuffix(old) + new for old, new in OLD_ENDINGS.items() if name.endswith(old)), name)
        if name in bare:
            raise InputError(f"{path}: two tensors stand for {name}; one of them is {key}")
        bare[name] = tensor
    return bare


def _without_wrappers(key: str) -> str:
    return ".".join(module for module in key.split(".") if module not in WRAPPERS)


def _pruned(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors with each X_orig and X_mask of `torch.nn.utils.prune` multiplied to X; other names are kept."""
    for name in [key.removesuffix("_mask") for key in state if key.endswith("_mask")]:
        original, mask = state.get(f"{name}_orig"), state[f"{name}_mask"]
        if original is None or name in state or original.untyped_storage().nbytes() < original.nbytes:
            continue  # `build_model` reports the names
        if original.shape != mask.shape:
            shapes = f"{tuple(mask.shape)}, but {name}_orig {tuple(original.shape)}"
            raise InputError(f"{path}: {name}_mask has the shape {shapes}")
        del state[f"{name}_orig"], state[f"{name}_mask"]
        state[name] = original * mask.to(original.dtype)
    return state
