"""Structural twins: BERT-base checkpoints with a published pruning structure and random weights.

The published weights are on the model hub only. Size and speed depend on which blocks and heads are left, not on the
values, so that everything but EM and F1 can be measured on a twin. What is known of the published structure stands in
`published.json`: the heads that were cut out of the 0.32 model, and how many blocks its sibling 0.20 keeps in
each matrix, after which the kept blocks of a twin of 0.32 are spread.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from qalib.model import bert, blocks, checkpoint, formats, settings
from qalib.utils.errors import InputError
from qalib.utils.files import new_folder, read_json, write_json
from qalib.utils.paths import PUBLISHED_MODELS

FORMATS = ("2021", "packed", "transformers")
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
Masks = dict[tuple[int, str], Tensor]  # by layer and kind: bool, shape (rows/height, columns/width)
Heads = dict[int, list[int]]


def make(
    out: Path | str,
    published: str = "0.32",
    masks: Path | str | None = None,
    density: float | None = None,
    seed: int = 0,
    format: str = "2021",
    vocabulary: Path | str | None = None,
) -> Path:
    """Write a twin to the folder `out` and return it.

    Args:
        published: Model whose heads, config and linear density are taken: 0.32.
        masks: File that gives every kept block instead, as `{"block_size", "pruned_heads", "kept_blocks"}` with rows
            of 0 and 1, one a block; `"model"` may name the model.
        density: Linear density instead of the published one, between 0 and 1; over blocks at unpruned size.
        seed: Of weights and places of blocks.
        format: `2021` (heads cut out, zero blocks stored, pickled), `packed` or `transformers`.
        vocabulary: Folder with tokenizer files to put beside the weights.

    Raises InputError for an unknown name, a mask file that does not fit, or a density that the heads left cannot hold.
    """
    facts = read_json(PUBLISHED_MODELS)
    if published not in facts or "config" not in facts[published]:
        raise InputError(f"no published model {published!r}; there is 0.32")
    if format not in FORMATS:
        raise InputError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    settings = dict(facts[published]["config"])
    config = BertConfig(**{key: value for key, value in settings.items() if key != "pruned_heads"})
    block = tuple(settings["block_size"])
    generator = torch.Generator().manual_seed(seed)
    if masks is not None:
        kept, heads, block, settings["_name_or_path"] = read_masks(masks, config)
        settings |= {"block_size": list(block), "pruned_heads": {str(layer): gone for layer, gone in heads.items()}}
        structure = f"heads and kept blocks as in {Path(masks).name}"
    else:
        share = facts[published]["linear_density_percent"] / 100 if density is None else density
        heads = {int(layer): numbers for layer, numbers in settings["pruned_heads"].items()}
        kept = place(facts["kept_blocks_of_0.20"], heads, share, block, config, generator)
        structure = (
            f"heads as published, {100 * share:.1f} % of the linear weights kept, in blocks drawn at random; densities "
            "of single matrices, FFN neurons and what they do to speed are the twin's own"
        )
    model = _model(config, kept, block, seed)
    if format == "2021":
        with new_folder(out) as draft:
            _write_2021(model, settings, structure, draft, vocabulary)
        return Path(out)
    with TemporaryDirectory() as draft:
        _write_2021(model, settings, structure, Path(draft), vocabulary)
        loaded = checkpoint.load(draft)
        return (
            checkpoint.save_packed(loaded, out, "fp32")
            if format == "packed"
            else checkpoint.save_transformers(loaded, out)
        )


def read_masks(path: Path | str, config: BertConfig) -> tuple[Masks, Heads, blocks.Block, str]:
    """Kept blocks, pruned heads, block size and model from a mask file. Raises InputError naming what does not fit."""
    value = read_json(path)
    if not isinstance(value, dict) or not {"block_size", "pruned_heads", "kept_blocks"} <= value.keys():
        raise InputError(f"{path}: expected an object with block_size, pruned_heads and kept_blocks")
    block = settings.block(value, config, config.hidden_size, Path(path))
    heads = settings.pruned_heads(value, config, Path(path))
    hidden, inner, kept, grids = config.hidden_size, config.intermediate_size, {}, value["kept_blocks"]
    if not isinstance(grids, dict):
        raise InputError(f"{path}: kept_blocks is {type(grids).__name__}, expected an object {{matrix: rows}}")
    for layer in range(config.num_hidden_layers):
        for kind, suffix in bert.LINEAR_LAYERS.items():
            name = f"bert.encoder.layer.{layer}.{suffix}.weight"
            rows, columns = {"FFN in": (inner, hidden), "FFN out": (hidden, inner)}.get(kind, (hidden, hidden))
            grid = grids.get(name)
            shape = (rows // block[0], columns // block[1])
            if not _is_grid(grid, shape):
                raise InputError(f"{path}: kept_blocks of {name} is not {shape[0]} rows of {shape[1]} times 0 or 1")
            kept[layer, kind] = torch.tensor([[bit == "1" for bit in row] for row in grid])
    if len(grids) > len(kept):
        raise InputError(
            f"{path}: kept_blocks names {len(grids)} matrices, a BERT-base has {len(kept)} that are pruned"
        )
    return kept, heads, block, str(value.get("model", f"the model of {Path(path).name}"))


def _is_grid(grid: Any, shape: tuple[int, int]) -> bool:
    return (
        isinstance(grid, list)
        and len(grid) == shape[0]
        and all(isinstance(row, str) and len(row) == shape[1] and set(row) <= {"0", "1"} for row in grid)
    )


def place(
    like: list[dict[str, int]],
    heads: Heads,
    density: float,
    block: blocks.Block,
    config: BertConfig,
    generator: torch.Generator,
) -> Masks:
    """Random masks that keep `density` of all blocks, none of them in the `heads` that are gone.

    Each matrix gets blocks in proportion to `like` (kept blocks by layer and kind), as far as there is room, and at
    least one in each part of a head that is left. Raises InputError if there is no room for so many.
    """
    allowed = {
        (layer, kind): _allowed(kind, heads.get(layer, []), block, config)
        for layer in range(config.num_hidden_layers)
        for kind in bert.LINEAR_LAYERS
    }
    total = sum(places.numel() for places in allowed.values())
    room = {key: int(places.sum()) for key, places in allowed.items()}
    wanted = round(density * total)
    if not 0 <= wanted <= sum(room.values()):
        most = sum(room.values()) / total
        raise InputError(f"density {density}: must be between 0 and {most:.4f}, which the heads left can hold")
    counts = dict.fromkeys(room, 0)
    while missing := wanted - sum(counts.values()):
        open_places = {key: like[key[0]][key[1]] for key in room if counts[key] < room[key]}
        share = missing / sum(open_places.values())
        for key, weight in open_places.items():
            more = max(1, int(share * weight))
            counts[key] += min(more, room[key] - counts[key], wanted - sum(counts.values()))
    return {key: _choose(allowed[key], counts[key], key[1], block, config, generator) for key in allowed}


def _allowed(kind: str, removed: list[int], block: blocks.Block, config: BertConfig) -> Tensor:
    hidden, inner = config.hidden_size, config.intermediate_size
    rows, columns = {"FFN in": (inner, hidden), "FFN out": (hidden, inner)}.get(kind, (hidden, hidden))
    weight = torch.ones(rows, columns)
    size = hidden // config.num_attention_heads
    for head in removed:
        if kind in ("query", "key", "value"):
            weight[head * size : (head + 1) * size] = 0
        elif kind == "attention output":
            weight[:, head * size : (head + 1) * size] = 0
    return blocks.mask(weight, block)


def _choose(
    allowed: Tensor, count: int, kind: str, block: blocks.Block, config: BertConfig, generator: torch.Generator
) -> Tensor:
    """`count` of the allowed places at random; of query, key and value first one in each head that is left."""
    order = torch.rand(allowed.shape, generator=generator)
    if kind in ("query", "key", "value"):
        rows = bert.split_heads(order.masked_fill(~allowed, 2.0), config.num_attention_heads)  # a view
        flat = rows.reshape(config.num_attention_heads, -1)
        first = flat.argmin(1)
        alive = flat.gather(1, first[:, None])[:, 0] < 2
        flat[alive, first[alive]] = -1
        order = flat.reshape(allowed.shape)
    order = order.masked_fill(~allowed, 3.0)
    chosen = torch.zeros(allowed.numel(), dtype=torch.bool)
    chosen[order.flatten().argsort()[:count]] = True
    return chosen.view(allowed.shape)


def _model(config: BertConfig, kept: Masks, block: blocks.Block, seed: int) -> BertForQuestionAnswering:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForQuestionAnswering(config)
    for matrix in bert.matrices(model):
        matrix.linear.weight.data *= blocks.expand(kept[matrix.layer, matrix.kind], block)
    return model


def _write_2021(
    model: BertForQuestionAnswering,
    settings: dict[str, Any],
    structure: str,
    folder: Path,
    vocabulary: Path | str | None,
) -> None:
    """The format of 2021: heads cut out of four matrices, zero blocks stored, a buffer among the weights."""
    state, config = dict(model.state_dict()), model.config
    size = config.hidden_size // config.num_attention_heads
    for layer, removed in settings["pruned_heads"].items():
        left = [h for h in range(config.num_attention_heads) if h not in removed]
        rows = torch.tensor([h * size + i for h in left for i in range(size)], dtype=torch.long)
        prefix = f"bert.encoder.layer.{layer}."
        for kind in ("query", "key", "value"):
            for part in ("weight", "bias"):
                key = f"{prefix}{bert.LINEAR_LAYERS[kind]}.{part}"
                state[key] = state[key][rows]
        key = f"{prefix}{bert.LINEAR_LAYERS['attention output']}.weight"
        state[key] = state[key][:, rows]
    state["bert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    torch.save({key: value.contiguous().clone() for key, value in state.items()}, folder / formats.PICKLED)
    write_json(folder / "config.json", settings)
    write_json(folder / "model_meta.json", {"twin_of": settings["_name_or_path"], "structure": structure})
    for name in TOKENIZER_FILES:
        if vocabulary and (Path(vocabulary) / name).exists():
            shutil.copyfile(Path(vocabulary) / name, folder / name)
