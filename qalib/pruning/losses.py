"""What a pruned model learns from: the right answers and a teacher's logits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = Mapping[str, Any]
"""`input_ids`, `token_type_ids` and `attention_mask`, shape `(batch, length)`, the answers' first and last token in
`positions`, shape `(batch, 2)`, and the windows' numbers in `index`, shape `(batch,)`: tensors but for the last, a
numpy array, which stays on the CPU where it is read, so that nothing waits for a GPU."""

MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def training_losses(
    student: Callable[..., Tensor],
    teacher: Callable[[Batch], Tensor],
    batch: Batch,
    alpha: float = 0.9,
    temperature: float = 2.0,
) -> dict[str, Tensor]:
    """The losses of a batch: `answer_loss`, `distillation_loss` if `alpha` is not 0, and `loss`, their mixture.

    `student` takes the model's inputs by name, `teacher` the batch, and both give logits `(batch, 2, length)`. The
    mixture is alpha * distillation + (1 - alpha) * cross-entropy with the answers.
    """
    logits = student(**{name: batch[name] for name in MODEL_INPUTS})
    losses = {"answer_loss": answer_loss(logits, batch["positions"])}
    loss = (1 - alpha) * losses["answer_loss"]
    if alpha:
        losses["distillation_loss"] = distillation_loss(logits, teacher(batch), temperature)
        loss = loss + alpha * losses["distillation_loss"]
    return losses | {"loss": loss}


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Kullback-Leibler divergence of the student's positions from the teacher's at a temperature, times its square.

    Both are logits of shape `(batch, 2, length)`; the mean over batch, start and end (arXiv 2005.07683, section 4.1).
    """
    length = student.shape[-1]
    return temperature**2 * functional.kl_div(
        functional.log_softmax(student.reshape(-1, length) / temperature, -1),
        functional.log_softmax(teacher.reshape(-1, length) / temperature, -1),
        reduction="batchmean",
        log_target=True,
    )


def answer_loss(student: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy of first and last token of the answer: logits `(batch, 2, length)`, positions `(batch, 2)`."""
    return functional.cross_entropy(student.flatten(0, 1), positions.flatten())


def span_logits(model: nn.Module, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Start and end logits, shape `(batch, 2, length)`, float32; the most negative number at padding."""
    output = model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
    both = torch.stack([output.start_logits, output.end_logits], 1).float()
    return both.masked_fill(attention_mask[:, None] == 0, torch.finfo(torch.float32).min)


@torch.no_grad()
def teacher_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The `span_logits` of a batch, to learn from."""
    return span_logits(model, **{name: batch[name] for name in MODEL_INPUTS})
