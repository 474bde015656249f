"""Structural twins: BERT-base checkpoints with a published pruning structure and random weights.

The published weights are only on the model hub. Size and speed depend on which blocks, heads and neurons are left, not
on their values, so everything but EM and F1 can be measured on a twin. `published.json` holds what is known of the
published structures:

- 0.32: the heads that were cut out, the linear density, and how many blocks its sibling 0.20 keeps in each matrix,
  in proportion to which the kept blocks are spread;
- hybrid-filled-0.26: how many heads and FFN neurons each layer has left, with all their weights;
- hybrid-filled-0.36: the linear density and the number of heads, spread over the layers as in 0.26.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import BertConfig, BertForQuestionAnswering

from qalib.model import bert, blocks, checkpoint, formats, saving, structure
from qalib.model import settings as checks
from qalib.model.structure import Heads, Masks
from qalib.model.tokenizers import TOKENIZER_FILES
from qalib.utils.errors import InputError
from qalib.utils.files import atomic_folder, read_json, write_json
from qalib.utils.folders import copy_into
from qalib.utils.paths import PUBLISHED_MODELS

FORMATS = ("2021", "packed", "transformers")


def make_twin(
    out: Path | str,
    published: str = "0.32",
    masks: Path | str | None = None,
    density: float | None = None,
    seed: int = 0,
    format: str = "2021",
    vocabulary: Path | str | None = None,
    block: blocks.Block | None = None,
) -> Path:
    """Write a twin to the folder `out` and return it.

    Args:
        published: Model to take heads, config and linear density from, one of `published_names()`.
        masks: File that gives every kept block instead, as `{"block_size", "pruned_heads", "kept_blocks"}` with rows
            of 0 and 1, one per block; `"model"` may name the model.
        density: Linear density instead of the published one, between 0 and 1; over blocks at unpruned size.
        seed: Seed for the weights and for the places of blocks, heads and neurons.
        format: `2021` (heads cut out, other zeros stored, pickled), `packed` or `transformers`.
        vocabulary: Folder with tokenizer files to put beside the weights.
        block: Height and width of the blocks instead of the published ones, as (1, 4).

    Raises InputError for an unknown name, a mask file or block that does not fit, or a density that the heads left
    cannot hold.
    """
    facts = read_json(PUBLISHED_MODELS)
    if published not in published_names():
        raise InputError(f"no published model {published!r}; there are {', '.join(published_names())}")
    if format not in FORMATS:
        raise InputError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    settings = dict(facts[published]["config"])
    config = BertConfig(**{key: value for key, value in settings.items() if key != "pruned_heads"})
    generator = torch.Generator().manual_seed(seed)
    if block is not None:
        if masks is not None or "block_size" not in settings:
            raise InputError(f"block {block}: {masks or published} already says which weights are kept")
        settings["block_size"] = list(block)
        checks.block_size(settings, config, config.hidden_size, Path(out))
    if masks is not None:
        kept, heads, block, settings["_name_or_path"] = structure.read_masks(masks, config)
        settings["block_size"] = list(block)
        said = f"heads and kept blocks as in {Path(masks).name}"
    elif "block_size" in settings:
        block = settings["block_size"][0], settings["block_size"][1]
        kept, heads, said = _in_blocks(facts, published, density, block, config, generator)
    else:
        block = (1, 1)
        kept, heads, said = _in_heads_and_neurons(facts, published, density, config, generator)
    settings["pruned_heads"] = {str(layer): gone for layer, gone in heads.items()}
    model = _model(config, kept, block, seed)
    if format == "2021":
        with atomic_folder(out) as draft:
            _write_2021(model, settings, said, draft, vocabulary)
        return Path(out)
    with TemporaryDirectory() as draft:
        _write_2021(model, settings, said, Path(draft), vocabulary)
        loaded = checkpoint.load(draft)
        return saving.save_packed(loaded, out, "fp32") if format == "packed" else saving.save_transformers(loaded, out)


def published_names() -> list[str]:
    """The published models that a twin can be made from."""
    return [name for name, fact in read_json(PUBLISHED_MODELS).items() if isinstance(fact, dict)]


def _in_blocks(
    facts: dict[str, Any],
    published: str,
    density: float | None,
    block: blocks.Block,
    config: BertConfig,
    generator: torch.Generator,
) -> tuple[Masks, Heads, str]:
    """Kept blocks and removed heads, and in words how much of this is published."""
    fact = facts[published]
    share = fact["linear_density_percent"] / 100 if density is None else density
    heads = {int(layer): numbers for layer, numbers in fact["config"]["pruned_heads"].items()}
    kept = structure.place_blocks(facts["kept_blocks_of_0.20"], heads, share, block, config, generator)
    said = (
        f"heads as published, {100 * share:.1f} % of the linear weights kept, in blocks drawn at random; densities "
        "of single matrices, FFN neurons and their effect on speed are the twin's own"
    )
    return kept, heads, said


def _in_heads_and_neurons(
    facts: dict[str, Any], published: str, density: float | None, config: BertConfig, generator: torch.Generator
) -> tuple[Masks, Heads, str]:
    """The same for a model pruned by whole heads and neurons, with all other weights kept."""
    fact = facts[published]
    like = facts[fact.get("spread_as", published)]
    heads_left, neurons_left, said = like["heads_left"], like["neurons_left"], fact["published"]
    if "spread_as" in fact:
        capacity = dict.fromkeys(range(config.num_hidden_layers), config.num_attention_heads)
        left = structure.apportion(
            sum(capacity.values()) - fact["heads_removed"], dict(enumerate(heads_left)), capacity
        )
        heads_left = [left[layer] for layer in capacity]
    if density is not None:
        said += f", except the neurons: as many as keep {100 * density:.1f} % of the linear weights"
    elif "spread_as" in fact:
        density = fact["linear_density_percent"] / 100
    if density is not None:
        neurons_left = structure.neurons_for_density(density, heads_left, neurons_left, config)
    kept, heads = structure.heads_and_neurons(heads_left, neurons_left, config, generator)
    return kept, heads, f"{said}; which heads and neurons they are was drawn at random"


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
    said: str,
    folder: Path,
    vocabulary: Path | str | None,
) -> None:
    """The format of 2021: heads cut out of four matrices, other zeros stored, a buffer among the weights."""
    state, config = dict(model.state_dict()), model.config
    size = config.hidden_size // config.num_attention_heads
    for layer, removed in settings["pruned_heads"].items():
        left = [h for h in range(config.num_attention_heads) if h not in removed]
        rows = bert.head_rows(left, size)
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
    write_json(folder / "model_meta.json", {"twin_of": settings["_name_or_path"], "structure": said})
    for name in TOKENIZER_FILES:
        if vocabulary and (Path(vocabulary) / name).exists():
            copy_into(Path(vocabulary) / name, folder)
