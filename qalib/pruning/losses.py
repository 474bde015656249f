"""What a pruned model learns from: the right answers, a teacher's logits and its hidden states."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = Mapping[str, Any]
"""`input_ids`, `token_type_ids` and `attention_mask`, shape `(batch, length)`, the answers' first and last token in
`positions`, shape `(batch, 2)`, and the windows' numbers in `index`, shape `(batch,)`: tensors but for the last, a
numpy array, which stays on the CPU where it is read, so that nothing waits for a GPU."""

MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
HiddenStates = Sequence[Tensor]  # after each layer, from the first to the last; each (batch, length, width)


def training_losses(
    student: Callable[..., Any],
    teacher: Callable[[Batch], Any],
    batch: Batch,
    alpha: float = 0.9,
    temperature: float = 2.0,
    hidden_weight: float = 0.0,
) -> dict[str, Tensor]:
    """The losses of a batch: `answer_loss`, `distillation_loss` if `alpha` is not 0, `hidden_loss` if `hidden_weight`
    is not, and `loss`, their mixture.

    `student` takes the model's inputs by name, `teacher` the batch, and both give logits `(batch, 2, length)`; with a
    `hidden_weight`, `span_outputs`, for which the student is asked by `hidden_states=True`. The mixture is
    alpha * distillation + (1 - alpha) * cross-entropy with the answers + hidden_weight * hidden.
    """
    inputs = {name: batch[name] for name in MODEL_INPUTS}
    if hidden_weight:
        (logits, hidden), (taught, teacher_hidden) = student(**inputs, hidden_states=True), teacher(batch)
    else:
        logits, taught = student(**inputs), teacher(batch) if alpha else torch.empty(0)
    losses = {"answer_loss": answer_loss(logits, batch["positions"])}
    loss = (1 - alpha) * losses["answer_loss"]
    if alpha:
        losses["distillation_loss"] = distillation_loss(logits, taught, temperature)
        loss = loss + alpha * losses["distillation_loss"]
    if hidden_weight:
        losses["hidden_loss"] = hidden_loss(hidden, teacher_hidden, batch["attention_mask"])
        loss = loss + hidden_weight * losses["hidden_loss"]
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


def hidden_loss(student: HiddenStates, teacher: HiddenStates, attention_mask: Tensor) -> Tensor:
    """Squared error of the student's hidden states over the teacher's squares, without padding; the mean over layers.

    1 is what zeros would have. "SquareHead" (arXiv 2310.06927, section 2), made for training sparse models on.
    """
    seen = attention_mask[..., None].bool()
    pairs = [(mine.float() * seen, theirs.float() * seen) for mine, theirs in zip(student, teacher, strict=True)]
    errors = ((mine - theirs).square().sum() / theirs.square().sum() for mine, theirs in pairs)
    return cast(Tensor, sum(errors)) / len(pairs)


def span_logits(model: nn.Module, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Start and end logits, shape `(batch, 2, length)`, float32; the most negative number at padding."""
    output = model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
    return _masked(output, attention_mask)


def span_outputs(model: nn.Module, **inputs: Tensor) -> tuple[Tensor, HiddenStates]:
    """The `span_logits` of a model's inputs, and its hidden states."""
    output = model(**inputs, output_hidden_states=True)
    return _masked(output, inputs["attention_mask"]), output.hidden_states[1:]  # the first are the embeddings


def _masked(output: Any, attention_mask: Tensor) -> Tensor:
    both = torch.stack([output.start_logits, output.end_logits], 1).float()
    return both.masked_fill(attention_mask[:, None] == 0, torch.finfo(torch.float32).min)


@torch.no_grad()
def teacher_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The `span_logits` of a batch, to learn from."""
    return span_logits(model, **{name: batch[name] for name in MODEL_INPUTS})


@torch.no_grad()
def teacher_outputs(model: nn.Module, batch: Batch) -> tuple[Tensor, HiddenStates]:
    """The `span_outputs` of a batch, to learn from."""
    return span_outputs(model, **{name: batch[name] for name in MODEL_INPUTS})
