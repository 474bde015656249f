"""A pruning run small enough to watch: the parts of `pruning` in a plain loop.

What `training` adds for a real run is left out: Trainer, mixed precision, checkpoints, the teacher's cache, the clock.
"""

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from qalib.model import bert, blocks
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import movement
from qalib.pruning.dataset import ByLength, TrainingWindows
from qalib.pruning.movement import Pruner, Scores
from qalib.pruning.schedule import Schedule, steer
from qalib.qa.squad import QuestionSet

GONE = -8.0  # the first score of a block that is zero already


@dataclass(frozen=True)
class Rehearsal:
    """What was seen, a row a step.

    `log` has the columns step, loss, density, scheduled_density, threshold, heads_left. `scores` has a column for each
    block of one layer's value matrix that was not zero from the start, `cuts` is the score above which one was kept.
    """

    log: pd.DataFrame
    scores: pd.DataFrame
    cuts: pd.Series


def rehearse(
    checkpoint: Checkpoint,
    data: QuestionSet,
    density: float = 0.2,
    steps: int = 60,
    batch: int = 8,
    weight_lr: float = 1e-4,
    score_lr: float = 5e-2,
    regulariser: float = 10.0,
    layer: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Rehearsal:
    """Prune a copy of the model further, to `density`, with the model itself as the teacher; `layer` is watched."""
    torch.manual_seed(seed)
    pruner = Pruner(copy.deepcopy(checkpoint.model), checkpoint.block)
    schedule = Schedule(density, warmup=0.1, rise=0.6, settle=0.8)
    train = TrainingWindows(data.questions, checkpoint.tokenizer)
    weights = [p for p in pruner.model.parameters() if p.requires_grad]
    groups = [{"params": weights, "lr": weight_lr}, {"params": list(pruner.scores.parameters()), "lr": score_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    order = ByLength(train.lengths, batch, seed).first(steps * batch)
    rows, seen, cuts = [], [], []
    for matrix in bert.matrices(checkpoint.model):  # what is zero already stays last in line
        zero = ~blocks.mask(matrix.linear.weight.detach(), checkpoint.block)
        pruner.masks()[f"{matrix.layer} {matrix.kind}"].scores.values.data[zero] = GONE
    watched = pruner.masks()[f"{layer} value"].scores
    alive = watched.values.detach().flatten() > GONE / 2
    at_first = _density(pruner)
    for step in tqdm(range(steps), unit="step", desc="pruning", disable=not progress):
        steer(pruner, schedule, step / steps, 1 / steps, regulariser)
        inputs = train.batch(order[step * batch : (step + 1) * batch])
        positions, _ = inputs.pop("positions"), inputs.pop("index")
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                teacher = movement.logits(checkpoint.model, **inputs)
            student = pruner(**inputs)
        loss = 0.1 * movement.answer_loss(student, positions) + 0.9 * movement.distillation(student, teacher)
        optimizer.zero_grad()
        (loss + pruner.penalty * pruner.regulariser()).backward()
        optimizer.step()
        cut = torch.tensor(float(watched.cut))
        wanted, threshold = min(at_first, schedule.density_at(step / steps)), cut.sigmoid().item()
        rows.append((step, loss.item(), _density(pruner), wanted, threshold, _heads(pruner)))
        seen.append(watched.values.detach().flatten()[alive].tolist())
        cuts.append(cut.item())
    columns = ["step", "loss", "density", "scheduled_density", "threshold", "heads_left"]
    return Rehearsal(pd.DataFrame(rows, columns=columns), pd.DataFrame(seen), pd.Series(cuts))


def _kept(scores: Scores) -> Tensor:
    return scores.kept & (scores.values.detach() > GONE / 2)


def _density(pruner: Pruner) -> float:
    kept = [_kept(scores) for scores in pruner.scores]
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
    return bert.by_head(rows, config.num_attention_heads).flatten(1).any(1)
