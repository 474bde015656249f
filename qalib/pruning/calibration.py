"""Calibration of one-shot pruning: what goes in and out of the encoder's matrices over some windows, and what the loss
makes of it.

A matrix is known by its name (`bert.Matrix.name`). Padding counts for nothing. Under autocast the models compute in its
type; moments are in float32 all the same.
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

SPLIT = 768  # columns from which half of a symmetric product is worth being left out


@dataclass(frozen=True)
class Moments:
    """Moments of a matrix's inputs x and target outputs t over all tokens, the means taken off.

    `products` is the covariance of x, shape `(columns, columns)`, `targets` E[t xᵀ], shape `(rows, columns)`: in
    float64, as some inputs are a thousand times as large as others.
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
    originals = bert.matrices(dense)
    names = {(m.layer, m.kind): m.name for m in originals}
    sums: dict[tuple[str, str], Tensor] = {}
    tokens = 0
    for batch in batches:
        real = batch["attention_mask"].bool()
        pruned_pass, dense_pass = (_pass(one, batch, real) for one in (model, dense))
        tokens += int(real.sum())
        for (layer, kind), name in names.items():
            if kind in SHARED_INPUT:
                continue
            x, reference = pruned_pass[name][0], dense_pass[name][0]  # elsewhere the target is its product
            if kind in RESIDUAL:
                other = names[layer, RESIDUAL[kind]]
                reference = dense_pass[name][1] + dense_pass[other][0] - pruned_pass[other][0]
            with torch.autocast(x.device.type, enabled=False):
                terms = {
                    "products": _products(x),
                    "cross": reference.T @ x,
                    "x": x.sum(0),
                    "reference": reference.sum(0),
                }
            for term, value in terms.items():
                sums[name, term] = sums.get((name, term), 0) + value.double()
    result = {}
    for matrix in originals:
        source = names[matrix.layer, SHARED_INPUT.get(matrix.kind, matrix.kind)]
        mean, target_mean = sums[source, "x"] / tokens, sums[source, "reference"] / tokens
        targets = sums[source, "cross"] / tokens - torch.outer(target_mean, mean)
        if matrix.kind not in RESIDUAL:
            weight = matrix.linear.weight.double()
            targets, target_mean = weight @ targets, weight @ target_mean + matrix.linear.bias
        products = sums[source, "products"] / tokens - torch.outer(mean, mean)
        result[matrix.name] = Moments(products, targets, mean, target_mean)
    return result


def _products(x: Tensor) -> Tensor:
    """The symmetric matrix xᵀ x, its upper half computed in three parts."""
    if x.shape[1] < SPLIT:
        return x.T @ x
    left, right = x.tensor_split(2, dim=1)
    corner = left.T @ right
    return torch.cat([torch.cat([_products(left), corner], 1), torch.cat([corner.T, _products(right)], 1)])


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
            sums[name] = sums.get(name, 0) + gradient[real].float().square().sum(0)
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
    return {name: (given[real].float(), output[real].float()) for name, (given, output) in record.items()}
