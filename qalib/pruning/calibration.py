"""Calibration of one-shot pruning: what goes in and out of the encoder's matrices over some windows, and what the loss
makes of it.

A matrix is known by its name (`bert.Matrix.name`). Padding counts for nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from qalib.model import bert
from qalib.pruning.losses import MODEL_INPUTS, Batch, span_logits

SHARED_INPUT = {"key": "query", "value": "query"}  # kinds of matrices that read what another reads
RESIDUAL = {"attention output": "query", "FFN out": "FFN in"}  # added to their outputs: the input of the other


@dataclass(frozen=True)
class Moments:
    """Moments of a matrix's inputs x and target outputs t over all tokens, the means taken off.

    `products` is the covariance of x, shape `(columns, columns)`, `targets` E[t xᵀ], shape `(rows, columns)`.
    """

    products: Tensor
    targets: Tensor
    input_mean: Tensor
    target_mean: Tensor


@torch.no_grad()
def moments(model: nn.Module, dense: nn.Module, batches: Iterable[Batch]) -> dict[str, Moments]:
    """The moments of each matrix, with the inputs that a pruned `model` has and the outputs that the `dense` one has.

    Where a residual is added to the outputs, the target makes up for that, too: it is the dense sum, less the pruned
    model's residual (Park et al. 2023, arXiv 2308.03449, section 3.4).
    """
    names = {(m.layer, m.kind): m.name for m in bert.matrices(model)}
    sums: dict[tuple[str, str], Tensor] = {}
    tokens = 0
    for batch in batches:
        real = batch["attention_mask"].bool()
        seen, wanted = (_pass(one, batch, real) for one in (model, dense))
        tokens += int(real.sum())
        for (layer, kind), name in names.items():
            x, target = seen[name][0], wanted[name][1]
            if kind in RESIDUAL:
                other = names[layer, RESIDUAL[kind]]
                target = target + wanted[other][0] - seen[other][0]
            terms = {"targets": target.T @ x, "input_mean": x.sum(0), "target_mean": target.sum(0)}
            if kind not in SHARED_INPUT:
                terms["products"] = x.T @ x
            for term, value in terms.items():
                sums[name, term] = sums.get((name, term), 0) + value
    found = {}
    for (layer, kind), name in names.items():
        mean, target_mean = sums[name, "input_mean"] / tokens, sums[name, "target_mean"] / tokens
        targets = sums[name, "targets"] / tokens - torch.outer(target_mean, mean)
        if kind in SHARED_INPUT:
            products = found[names[layer, SHARED_INPUT[kind]]].products
        else:
            products = sums[name, "products"] / tokens - torch.outer(mean, mean)
        found[name] = Moments(products, targets, mean, target_mean)
    return found


def curvature(model: nn.Module, batches: Iterable[Batch], seed: int = 0) -> dict[str, Tensor]:
    """The diagonal Fisher information of each matrix's outputs, shape `(rows,)`: how much a change in them matters.

    The mean over all tokens of the squared gradient of the loss, whose answers are drawn from the model's own
    predictions.
    """
    generator, sums, tokens = torch.Generator().manual_seed(seed), {}, 0
    for batch in batches:
        real = batch["attention_mask"].bool()
        with torch.enable_grad(), _recorded(model) as record:
            logits = span_logits(model, **{name: batch[name] for name in MODEL_INPUTS}).flatten(0, 1)
            answers = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0].to(
                logits.device
            )
            names, outputs = zip(*((name, output) for name, (_, output) in record.items()), strict=True)
            loss = functional.cross_entropy(logits, answers, reduction="sum")
            gradients = torch.autograd.grad(loss, outputs)
        tokens += int(real.sum())
        for name, gradient in zip(names, gradients, strict=True):
            sums[name] = sums.get(name, 0) + gradient[real].square().sum(0)
    return {name: total / tokens for name, total in sums.items()}


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """The inputs and outputs of each matrix in the last call of the model, by name."""
    record: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str):
        return lambda module, given, output: record.update({name: (given[0], output)})

    handles = [m.linear.register_forward_hook(keep(m.name)) for m in bert.matrices(model)]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _pass(model: nn.Module, batch: Batch, real: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    with _recorded(model) as record:
        span_logits(model, **{name: batch[name] for name in MODEL_INPUTS})
    return {name: (given[real], output[real]) for name, (given, output) in record.items()}
