"""Encoders without an answer layer, as they are published to be fine-tuned: loaded with a new one.

Everything else about a checkpoint is as strict as in `checkpoint.load`.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig

from qalib.model import checkpoint
from qalib.model.architectures import Architecture
from qalib.model.checkpoint import Checkpoint

ANSWER_LAYER = "qa_outputs"
OTHER_HEADS = ("lm_head.", "cls.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.")  # of language models


def load(source: str | Path, seed: int = 0) -> tuple[Checkpoint, str]:
    """Load an encoder, and say what was added and left out.

    Its tensors may lack the prefix of their architecture. An answer layer is drawn from `seed`, normal with the
    config's `initializer_range` and no bias, unless there is one. Pooler and language model's head are left out.
    Raises InputError as `checkpoint.load`.
    """
    remarks: list[str] = []

    def complete(state: dict[str, Tensor], architecture: Architecture, config: BertConfig) -> dict[str, Tensor]:
        others = sorted(key for key in state if key.startswith(OTHER_HEADS) or "pooler." in key)
        state = {key: value for key, value in state.items() if key not in others}
        if not any(key.startswith(f"{architecture.prefix}.") for key in state):
            heads = {key: state.pop(key) for key in list(state) if key.startswith(ANSWER_LAYER)}
            state = {f"{architecture.prefix}.{key}": value for key, value in state.items()} | heads
        if not any(key.startswith(ANSWER_LAYER) for key in state):
            remarks.append(f"a new answer layer (seed {seed})")
            state |= _answer_layer(config, seed)
        if others:
            remarks.append(f"without {', '.join(others)}")
        return state

    loaded = checkpoint.load(source, complete)
    return loaded, "; ".join(remarks) or "its own answer layer"


def _answer_layer(config: BertConfig, seed: int) -> dict[str, Tensor]:
    weight = torch.randn(2, config.hidden_size, generator=torch.Generator().manual_seed(seed))
    return {f"{ANSWER_LAYER}.weight": config.initializer_range * weight, f"{ANSWER_LAYER}.bias": torch.zeros(2)}
