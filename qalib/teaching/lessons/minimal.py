"""A pruning run small enough to watch: the parts of a real one in a plain loop.

It lacks what `pruning.run` adds: Trainer, several processes, checkpoints, the cache of teachers' logits, the clock.
"""

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from qalib import runtimes
from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import attention
from qalib.pruning.controller import DensityController
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import Batch, teacher_logits, training_losses
from qalib.pruning.movement import Scores
from qalib.pruning.pruner import Pruner
from qalib.pruning.sampler import LengthGroupedSampler
from qalib.pruning.schedule import Schedule
from qalib.qa.squad import QuestionSet
from qalib.runtimes import dtypes

ZERO_BLOCK_SCORE = -8.0  # the initial score of a block that is already zero


@dataclass(frozen=True)
class MinimalRun:
    """What was seen, one row per step.

    `log` has the columns step, loss, density, scheduled_density, threshold (0 to 1) and heads_left. `scores` has a
    column for each block of one layer's value matrix that was not zero from the start, and `thresholds` the score above
    which one was kept. `pruned` is the result.
    """

    log: pd.DataFrame
    scores: pd.DataFrame
    thresholds: pd.Series
    pruned: Checkpoint


def prune_minimal(
    checkpoint: Checkpoint,
    questions: QuestionSet,
    density: float = 0.2,
    steps: int = 60,
    batch_size: int = 8,
    weight_lr: float = 1e-4,
    score_lr: float = 5e-2,
    regularization_weight: float = 10.0,
    layer: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> MinimalRun:
    """Prune a copy of the model further, to `density`, with the model itself as the teacher; `layer` is watched."""
    torch.manual_seed(seed)
    model, teacher = copy.deepcopy(checkpoint.model), runtimes.build("compact", checkpoint)
    model.set_attn_implementation(attention.NAME)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)  # half of all weights, and not what is pruned
    pruner = Pruner(model, checkpoint.block)
    _put_zeros_last(pruner, checkpoint)
    schedule = Schedule(density, warmup=0.1, ramp_end=0.6, freeze_at=0.8)
    controller = DensityController(pruner, schedule, regularization_weight)
    data = SquadDataset(questions.questions, checkpoint.tokenizer)
    weights = [p for p in pruner.model.parameters() if p.requires_grad]
    groups = [{"params": weights, "lr": weight_lr}, {"params": list(pruner.scores.parameters()), "lr": score_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    watched = pruner.masks()[f"{layer} value"].scores
    alive = watched.values.detach().flatten() > ZERO_BLOCK_SCORE / 2
    lowered = dtypes.fastest(dtypes.TRAINING) == "bf16"
    at_first, rows, seen, thresholds = _density(pruner), [], [], []
    batches = LengthGroupedSampler(data.lengths, batch_size, seed).batches(steps)
    for step, indices in enumerate(tqdm(batches, total=steps, unit="step", desc="pruning", disable=not progress)):
        controller.update(step / steps)
        loss = _step(pruner, teacher, data.collate(indices), controller, optimizer, lowered)
        scheduled = min(at_first, controller.target_density())
        threshold = torch.tensor(watched.threshold).sigmoid().item()
        rows.append((step, loss, _density(pruner), scheduled, threshold, _heads(pruner)))
        seen.append(watched.values.detach().flatten()[alive].tolist())
        thresholds.append(watched.threshold)
    columns = ["step", "loss", "density", "scheduled_density", "threshold", "heads_left"]
    controller.update(1.0)
    pruned = replace(checkpoint, model=pruner.apply_masks())
    return MinimalRun(pd.DataFrame(rows, columns=columns), pd.DataFrame(seen), pd.Series(thresholds), pruned)


def _step(
    pruner: Pruner,
    teacher: nn.Module,
    batch: Batch,
    controller: DensityController,
    optimizer: torch.optim.Optimizer,
    lowered: bool,
) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        loss = training_losses(pruner, partial(teacher_logits, teacher), batch)["loss"]
    optimizer.zero_grad()
    (loss + controller.regularization()).backward()
    optimizer.step()
    return loss.item()


def _put_zeros_last(pruner: Pruner, checkpoint: Checkpoint) -> None:
    """Score blocks that are already zero so low that no threshold keeps them."""
    for matrix in bert.matrices(checkpoint.model):
        zero = ~blocks.mask(matrix.linear.weight.detach(), checkpoint.block)
        pruner.masks()[f"{matrix.layer} {matrix.kind}"].scores.values.data[zero] = ZERO_BLOCK_SCORE


def _kept(scores: Scores) -> Tensor:
    return scores.kept & (scores.values.detach() > ZERO_BLOCK_SCORE / 2)


def _density(pruner: Pruner) -> float:
    kept = [_kept(cast(Scores, scores)) for scores in pruner.scores]
    return sum(int(k.sum()) for k in kept) / sum(k.numel() for k in kept)


def _heads(pruner: Pruner) -> int:
    """Heads with a block left in each of query, key and value."""
    masks, config = pruner.masks(), pruner.model.config
    left = 0
    for layer in range(config.num_hidden_layers):
        parts = [masks[f"{layer} {kind}"] for kind in ("query", "key", "value")]
        left += int(torch.stack([_alive(_kept(part.scores), config) for part in parts]).all(0).sum())
    return left


def _alive(kept: Tensor, config) -> Tensor:
    rows = blocks.expand(kept, (config.hidden_size // kept.shape[0], 1))
    return bert.split_heads(rows, config.num_attention_heads).flatten(1).any(1)
