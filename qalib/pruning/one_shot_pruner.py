"""A model that is pruned in rounds by optimal brain surgery, beside the dense one whose outputs it keeps."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import BertForQuestionAnswering

from qalib.model import bert
from qalib.model.blocks import Block
from qalib.pruning import calibration, surgery
from qalib.pruning.calibration import Calibration
from qalib.pruning.losses import Batch
from qalib.pruning.pruner import reorder_neurons

CURVATURE_STEP = 3  # every third batch is enough for the curvature, which has one number for each output


class OneShotPruner:
    """Prunes `model`, in place, to do as `dense`, a copy of it, on the windows of `batches()`.

    Before the first round FFN neurons are put in order of what removing each would cost, in both models: the function
    is the same, and blocks hold neurons that matter alike. Layers with zero blocks, and hybrids, keep their order.
    """

    def __init__(
        self,
        model: BertForQuestionAnswering,
        dense: BertForQuestionAnswering,
        batches: Callable[[], Iterable[Batch]],
        block: Block,
        ffn: str = "block",
        dtype: str = "fp32",
        seed: int = 0,
    ):
        self.model, self.dense, self.batches = model, dense, batches
        self.block, self.ffn, self.dtype, self.seed = block, ffn, dtype, seed
        self.products: dict[str, Tensor] = {}
        self.curvature: dict[str, Tensor] = {}
        self.costs: dict[str, Tensor] = {}
        self.orders: dict[int, Tensor] = {}

    def prepare(self) -> None:
        """Put the neurons in order, and refit the model as it is."""
        kept = surgery.masks(self.model, self.block, self.ffn)
        self.products = self._refit(kept)
        self.curvature = self._curvature()
        for matrix in bert.matrices(self.model) if self.ffn == "block" else ():
            if matrix.kind == "FFN out" and kept[matrix.name].all():
                self._sort(matrix)

    def price(self, density: float) -> None:
        """Find what each block costs in the model as it is, to be pruned to a density."""
        curvature = self.curvature or self._curvature()
        self.costs = surgery.costs(self.model, self.products, curvature, density, self.block, self.ffn)

    def prune(self, density: float) -> None:
        """Remove the cheapest blocks down to a density that was priced, and refit the rest."""
        self.products = self._refit(surgery.choose(self.model, self.costs, density, self.block, self.ffn))
        self.curvature = {}  # of the model as it was

    def state_dict(self) -> dict[str, Any]:
        """What a run is resumed from."""
        return {"costs": self.costs, "orders": self.orders, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.costs, self.orders = state["costs"], state["orders"]
        for number, order in self.orders.items():
            reorder_neurons(bert.layers(self.dense)[number], order)

    def _refit(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        return surgery.refit(self.model, self.dense, Calibration(self.dense, self.batches(), self.dtype), kept)

    def _curvature(self) -> dict[str, Tensor]:
        """The curvature of the loss in the model as it is; by the dense model's, the last layers would be cut off."""
        device = next(self.model.parameters()).device.type
        some = itertools.islice(self.batches(), 0, None, CURVATURE_STEP)
        with torch.autocast(device, torch.bfloat16, enabled=self.dtype == "bf16"):
            return calibration.curvature(self.model, some, self.seed)

    def _sort(self, matrix: bert.Matrix) -> None:
        """Put a layer's neurons, their moments and curvature in order, the dearest first; `matrix` is its FFN out."""
        products = self.products[matrix.name]
        costs = surgery.neuron_costs(matrix.linear.weight, products, self.curvature[matrix.name])
        order = costs.argsort(descending=True, stable=True)
        for model in (self.model, self.dense):
            reorder_neurons(bert.layers(model)[matrix.layer], order)
        self.products[matrix.name] = products[order][:, order]
        neurons = next(m.name for m in bert.matrices(self.model) if (m.layer, m.kind) == (matrix.layer, "FFN in"))
        self.curvature[neurons] = self.curvature[neurons][order]
        self.orders[matrix.layer] = order
