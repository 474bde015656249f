"""Movement pruning from an empty cell: a solution of the capstone, whose mask is that of `qalib prune`.

Given are only the windows of questions, in batches, and what students wrote before: the straight-through mask of lesson
4 and the distillation loss of lesson 6. Losses, schedule, threshold and training are written out. In `qalib.pruning`
each of them has a file of its own, and works on several machines.
"""

import copy
import math

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from qalib.pruning.dataset import SquadDataset
from qalib.pruning.sampler import LengthGroupedSampler
from qalib.teaching.lessons.algorithms import StraightThrough, distillation_loss

MATRICES = ("query", "key", "value", "dense")  # what the linear layers of BERT's encoder are called


class BlockMask(nn.Module):
    """The masked weight W' = W * mask, with a score for each block (arXiv 2109.04838, section 3)."""

    def __init__(self, weight, block):
        super().__init__()
        (rows, columns), (height, width) = weight.shape, block
        self.tiles = rows // height, height, columns // width, width
        self.scores = nn.Parameter(torch.zeros(rows // height, columns // width))
        self.threshold = -math.inf

    def forward(self, weight):
        """W'."""
        kept = StraightThrough.apply(self.scores, self.threshold)
        return (weight.view(self.tiles) * kept[:, None, :, None]).view_as(weight)


def mask_encoder(model, block):
    """Put a mask on every matrix of the encoder; returns the masks."""
    masks = []
    for name, linear in model.bert.encoder.named_modules():
        if isinstance(linear, nn.Linear) and name.endswith(MATRICES):
            masks.append(BlockMask(linear.weight, block))
            parametrize.register_parametrization(linear, "weight", masks[-1])
    return masks


# ---- what the run is steered by: points of its progress, 0 at the begin and 1 at the end


def between(progress, start, end):
    """How far it is from start to end, 0 to 1."""
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def ramp(progress, config):
    """The cubic curve along which the threshold rises and the density falls (arXiv 2005.07683, section 4.2)."""
    return 1 - (1 - between(progress, config.warmup, config.ramp_end)) ** 3


def threshold_for(scores, density):
    """The score above which at most this share of all blocks is kept."""
    order = scores.sort(descending=True).values
    kept = int(density * len(order) + 1e-9)
    return order[kept].item() if kept < len(order) else -math.inf


class DensityController:
    """Threshold and regularization of each step: the published threshold, held near the density that is asked for."""

    def __init__(self, masks, config):
        self.masks, self.config = masks, config
        self.regularization, self.log_gain, self.progress = 0.0, 0.0, 0.0

    def update(self, progress):
        """Prepare the step at this progress."""
        advanced, self.progress = progress - self.progress, progress
        config, scores = self.config, torch.cat([m.scores.detach().flatten() for m in self.masks])
        self.regularization, threshold = 0.0, -math.inf
        if progress >= config.freeze_at:
            threshold = threshold_for(scores, config.density)
        elif progress > config.warmup:
            risen = ramp(progress, config)
            probability, density = 0.1 * risen, 1 - (1 - config.density) * risen
            published = math.log(probability / (1 - probability))
            surplus = (scores > published).float().mean().item() - density
            self.log_gain = min(max(self.log_gain + 100 * advanced * surplus, -math.log(10)), math.log(10))
            self.regularization = config.regularization_weight * risen * math.exp(self.log_gain)
            margin = 0.03 * (1 - between(progress, config.ramp_end, config.freeze_at))
            low, high = threshold_for(scores, density + margin), threshold_for(scores, density - margin)
            threshold = min(max(published, low), high)
        for mask in self.masks:
            mask.threshold = threshold


# ---- what is learnt from: the answers, the teacher, and a pull on all scores


def span_logits(model, batch):
    """Start and end logits, shape `(batch, 2, length)`, the most negative number where there is padding."""
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    output = model(**inputs)
    both = torch.stack([output.start_logits, output.end_logits], 1)
    return both.masked_fill(batch["attention_mask"][:, None] == 0, torch.finfo(torch.float32).min)


@torch.no_grad()
def teacher_logits(teacher, batch):
    """The teacher's logits as they are kept on disk, in fp16."""
    logits = span_logits(teacher, batch).clamp(-60_000, 60_000).half().float()
    return logits.masked_fill(batch["attention_mask"][:, None] == 0, torch.finfo(torch.float32).min)


def total_loss(model, teacher, batch, masks, controller, config):
    """Teacher and answers, mixed, and the regularization."""
    logits = span_logits(model, batch)
    answers = functional.cross_entropy(logits.flatten(0, 1), batch["positions"].flatten())
    taught = distillation_loss(logits, teacher_logits(teacher, batch), config.temperature)
    pull = torch.cat([torch.sigmoid(mask.scores).flatten() for mask in masks]).mean()
    return config.alpha * taught + (1 - config.alpha) * answers + controller.regularization * pull


# ---- the run


def prune(loaded, questions, config):
    """A pruned copy of the model of a checkpoint, which is its own teacher; `config` is a `PruningConfig`."""
    model, teacher = copy.deepcopy(loaded.model).eval(), loaded.model.eval()
    for part in (model, teacher):
        part.set_attn_implementation("eager")
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    masks = mask_encoder(model, config.block)
    weights = [p for name, p in model.named_parameters() if p.requires_grad and not name.endswith("scores")]
    groups = [{"params": weights, "lr": 0.0}, {"params": [mask.scores for mask in masks], "lr": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    data, controller = SquadDataset(questions.questions, loaded.tokenizer), DensityController(masks, config)
    steps = math.ceil(config.epochs * len(data) / config.batch)
    batches = LengthGroupedSampler(data.lengths, config.batch, config.seed).batches(steps)
    for step, indices in enumerate(batches):
        controller.update(step / steps)
        before = max(0, step - 1) / steps  # learning rates are set when the step before ends
        up, down = between(before, 0, config.warmup), between(before, config.freeze_at, 1)
        of_weights, of_scores = optimizer.param_groups
        of_weights["lr"] = config.weight_lr * up * (1 - down)
        of_scores["lr"] = config.score_lr * (1 - between(before, config.ramp_end, config.freeze_at))
        optimizer.zero_grad()
        total_loss(model, teacher, data.collate(indices), masks, controller, config).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    controller.update(1.0)
    for linear in [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]:
        parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
    return model
