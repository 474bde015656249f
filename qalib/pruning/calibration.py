"""Calibration of one-shot pruning: what goes in and out of the encoder's matrices over some windows, and what the loss
makes of it.

A matrix is known by its name (`bert.Matrix.name`). Padding counts for nothing. Models compute in a type that may be
lower; moments are in float64, as some inputs are a thousand times as large as others.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertLayer

from qalib.model import bert
from qalib.pruning.losses import MODEL_INPUTS, Batch, span_logits

SUBLAYERS = (("query", "key", "value"), ("attention output",), ("FFN in",), ("FFN out",))  # those that read the same
RESIDUAL = {"attention output": "query", "FFN out": "FFN in"}  # added to their outputs: the input of the other
SPLIT = 768  # columns from which half of a symmetric product is worth being left out


@dataclass(frozen=True)
class Moments:
    """Moments of a sublayer's inputs x in a pruned model and of a reference y in the dense one over all tokens.

    `products` is the covariance of x, shape `(columns, columns)`, `cross` that of y and x. The reference is what the
    dense sublayer reads or, where a residual is added to its outputs, the dense sum less the pruned model's residual,
    so that the sublayer makes up for that, too (Park et al. 2023, arXiv 2308.03449, section 3.4).
    """

    products: Tensor
    cross: Tensor
    mean: Tensor
    reference_mean: Tensor


class Calibration:
    """Windows on their way through the encoders of a pruned and a dense model, one layer after the other.

    The states that go into the present layer are kept, so that a layer can be changed before the next is reached.
    """

    def __init__(self, dense: BertForQuestionAnswering, batches: Iterable[Batch], dtype: str = "fp32"):
        """Start at the first layer, whose inputs are the same in both; `dtype` is what models compute in."""
        self._real, self._rest, first = [], [], []
        self._lowered = {"dtype": torch.bfloat16, "enabled": dtype == "bf16"}
        for batch in batches:
            self._real.append(batch["attention_mask"].bool())
            with self._autocast(), _stopped(bert.layers(dense)[0]) as calls:
                span_logits(dense, **{name: batch[name] for name in MODEL_INPUTS})
            (hidden, *rest), named = calls[0]
            first.append(hidden)
            self._rest.append((rest, named))
        self._pruned, self._dense = first, list(first)

    @torch.no_grad()
    def moments(self, layer: BertLayer, original: BertLayer, kind: str) -> Moments:
        """The moments of a sublayer of the present layer, by the kind of its first matrix."""
        sums: dict[str, Tensor] = {}
        for number, real in enumerate(self._real):
            pruned, dense = (
                self._inputs(layer, self._pruned, number, kind),
                self._inputs(original, self._dense, number, kind),
            )
            x, reference = pruned[kind], dense[kind]
            if residual := RESIDUAL.get(kind):
                with self._autocast():
                    outputs = original.get_submodule(bert.LINEAR_LAYERS[kind])(reference)
                reference = outputs.float() + dense[residual].float() - pruned[residual].float()
            x, reference = x[real].float(), reference[real].float()
            terms = {"products": _products(x), "cross": reference.T @ x, "x": x.sum(0), "reference": reference.sum(0)}
            for term, value in terms.items():
                sums[term] = sums.get(term, 0) + value.double()
        tokens = sum(int(real.sum()) for real in self._real)
        products, cross, mean, reference_mean = (total / tokens for total in sums.values())
        return Moments(
            products - torch.outer(mean, mean), cross - torch.outer(reference_mean, mean), mean, reference_mean
        )

    @torch.no_grad()
    def advance(self, layer: BertLayer, original: BertLayer) -> None:
        """Go on to the next layer, through the present one of each model."""
        for one, states in ((layer, self._pruned), (original, self._dense)):
            for number, (rest, named) in enumerate(self._rest):
                with self._autocast():
                    states[number] = one(states[number], *rest, **named)

    def _inputs(self, layer: BertLayer, states: list[Tensor], number: int, kind: str) -> dict[str, Tensor]:
        """What a sublayer and those before it in the present layer read, by kind."""
        inputs = {"query": states[number]}
        if kind == "query":
            return inputs
        kinds = [kinds[0] for kinds in SUBLAYERS[1:]]
        matrices = {k: layer.get_submodule(bert.LINEAR_LAYERS[k]) for k in kinds[: kinds.index(kind) + 1]}
        rest, named = self._rest[number]
        *before, last = matrices.values()
        with self._autocast(), _stopped(last, before) as calls:
            layer(states[number], *rest, **named)
        return inputs | {k: arguments[0] for k, (arguments, _) in zip(matrices, calls, strict=True)}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._real[-1].device.type, **self._lowered)


class _Reached(Exception):
    """A pass has come as far as it should."""


@contextmanager
def _stopped(last: nn.Module, before: Iterable[nn.Module] = ()) -> Iterator[list[tuple[tuple, dict[str, Any]]]]:
    """Arguments of modules in the pass within, in the order of their calls; it ends before the last is computed."""
    calls: list[tuple[tuple, dict[str, Any]]] = []

    def keep(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        calls.append((arguments, named))
        if module is last:
            raise _Reached

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in (*before, last)]
    try:
        with torch.no_grad():
            yield calls
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _products(x: Tensor) -> Tensor:
    """The symmetric matrix xᵀ x, its upper half computed in three parts."""
    if x.shape[1] < SPLIT:
        return x.T @ x
    left, right = x.tensor_split(2, dim=1)
    corner = left.T @ right
    return torch.cat([torch.cat([_products(left), corner], 1), torch.cat([corner.T, _products(right)], 1)])


def curvature(model: BertForQuestionAnswering, batches: Iterable[Batch], seed: int = 0) -> dict[str, Tensor]:
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
            names, outputs = zip(*record.items(), strict=True)
            loss = functional.cross_entropy(logits, answers, reduction="sum")
            gradients = torch.autograd.grad(loss, outputs)
        tokens += int(real.sum())
        for name, gradient in zip(names, gradients, strict=True):
            sums[name] = sums.get(name, 0) + gradient[real].float().square().sum(0)
    return {name: total / tokens for name, total in sums.items()}


@contextmanager
def _recorded(model: BertForQuestionAnswering) -> Iterator[dict[str, Tensor]]:
    """The outputs of each matrix in the last call of the model, by name."""
    record: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, arguments, output: record.update({name: output})

    handles = [m.linear.register_forward_hook(keep(m.name)) for m in bert.matrices(model)]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
