"""Weight averaging: one model from several that were trained from the same one, as small as each.

The uniform soup of "Model soups" (Wortsman et al., arXiv 2203.05482, section 2), where it is often better than each.
"""

from collections.abc import Sequence
from typing import Any

import torch

from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.utils.errors import InputError


def average(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """A checkpoint whose every weight is the mean of theirs; tokenizer, licence and settings are the first one's.

    Its `meta` is the first one's without scores and student, and with `average_of`: name, hash and meta of each.
    Raises InputError for fewer than two models, and for any that the first cannot be averaged with: other sizes,
    another tokenizer, or other blocks kept, as the mean would then keep the blocks of both.
    """
    if len(checkpoints) < 2:
        raise InputError(f"an average needs two models or more, not {len(checkpoints)}")
    first, *others = checkpoints
    for other in others:
        _require_alike(first, other)
    made = first.copy()
    states = [checkpoint.model.state_dict() for checkpoint in checkpoints]
    with torch.no_grad():
        for key, value in made.model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.stack([state[key] for state in states]).mean(0))
    made.meta = _meta(checkpoints)
    return made


def _require_alike(first: Checkpoint, other: Checkpoint) -> None:
    def refuse(why: str) -> InputError:
        return InputError(f"{first.name} and {other.name} cannot be averaged: {why}")

    if first.architecture is not other.architecture or first.block != other.block:
        kinds = [f"{c.architecture.name} in blocks of {c.block[0]}x{c.block[1]}" for c in (first, other)]
        raise refuse(" against ".join(kinds))
    shapes = [{key: tuple(value.shape) for key, value in c.model.state_dict().items()} for c in (first, other)]
    for key in shapes[0] | shapes[1]:
        if (one := shapes[0].get(key, "absent")) != (two := shapes[1].get(key, "absent")):
            raise refuse(f"{key} is {one} in one and {two} in the other")
    if first.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise refuse("their tokenizers have different vocabularies")
    for one, two in zip(bert.matrices(first.model), bert.matrices(other.model), strict=True):
        kept = [blocks.mask(matrix.linear.weight, first.block) for matrix in (one, two)]
        if differing := int((kept[0] != kept[1]).sum()):
            raise refuse(f"in {one.name}, {differing:,} of {kept[0].numel():,} blocks are kept by one of them only")


def _meta(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    metas = [checkpoint.meta for checkpoint in checkpoints]
    made = {key: value for key, value in metas[0].items() if key not in ("scores", "student")}
    for name in ("windows_seen", "training_seconds"):
        if all(name in meta for meta in metas):
            made[name] = round(_spent(name, metas), 1)
    origins = [{"name": c.name, "sha256": c.sha256} | ({"made_by": c.meta} if c.meta else {}) for c in checkpoints]
    return made | {"average_of": origins}


def _spent(name: str, metas: Sequence[dict[str, Any]]) -> float:
    """The sum over all models; what went into one that all of them were trained from is counted once."""
    students = [meta.get("student", {}) for meta in metas]
    if students[0].get("sha256") is None or any(s.get("sha256") != students[0]["sha256"] for s in students):
        return sum(meta[name] for meta in metas)
    common = students[0].get("made_by", {}).get(name, 0)
    return common + sum(meta[name] - common for meta in metas)
