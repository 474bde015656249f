"""The pruner: a model whose encoder matrices are masked by scores."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertLayer

from qalib.model import bert
from qalib.model.blocks import Block
from qalib.model.relative_positions import RelativeAttentionBias
from qalib.pruning.losses import HiddenStates, span_logits, span_outputs
from qalib.pruning.masked_linear import MaskedLinear, mask_and_weight
from qalib.pruning.movement import Mask, Scores, threshold_for_density
from qalib.runtimes.cpu.trainable_linear import TrainableBlockSparseLinear
from qalib.utils.errors import InputError


class Pruner(nn.Module):
    """A model with masks over the six matrices of each encoder layer; called with inputs, it gives `span_logits`.

    A bias by relative position is not trained.

    `ffn="block"` scores blocks everywhere. `ffn="hybrid"` scores blocks in attention and whole FFN neurons, a row of
    FFN in together with the same column of FFN out (arXiv 2109.04838, section 3). Where the model has been cut to size,
    `dense_sizes` are the numbers of weights that its matrices had before: densities are over those. `fix_largest` and
    `fix_nonzero` replace the matrices by block-sparse layers: from then on only the weights of kept blocks exist.
    Raises InputError if the block does not divide a matrix.
    """

    def __init__(
        self,
        model: BertForQuestionAnswering,
        block: Block = (32, 32),
        ffn: str = "block",
        dense_sizes: list[int] | None = None,
    ):
        super().__init__()
        self.model = model
        for module in model.modules():
            if isinstance(module, RelativeAttentionBias):  # its gradient would take a pass over all attention scores
                module.requires_grad_(False)
        self.scores = nn.ModuleList()
        self._scores: list[Scores] = []  # the same ones, with their type
        self.sizes = [matrix.linear.weight.numel() for matrix in bert.matrices(model)]
        self.dense_sizes = dense_sizes or self.sizes
        self._masks: dict[str, Mask] = {}
        for matrix in bert.matrices(model):
            neurons = ffn == "hybrid" and matrix.kind.startswith("FFN")
            if not (neurons and matrix.kind == "FFN out"):
                self._scores.append(_neuron_scores(matrix) if neurons else _block_scores(matrix, block))
                self.scores.append(self._scores[-1])
            mask = Mask(self._scores[-1], transposed=neurons and matrix.kind == "FFN out")
            model.set_submodule(matrix.name, MaskedLinear.of(matrix.linear, mask))
            self._masks[f"{matrix.layer} {matrix.kind}"] = mask

    def forward(self, hidden_states: bool = False, **inputs: Tensor) -> Tensor | tuple[Tensor, HiddenStates]:
        """`span_logits` of the masked model for its inputs, or `span_outputs` if hidden states are asked for."""
        return span_outputs(self.model, **inputs) if hidden_states else span_logits(self.model, **inputs)

    def masks(self) -> dict[str, Mask]:
        """The mask of every matrix, by layer and kind: `0 query`, `0 key`, ..."""
        return dict(self._masks)

    def flat_scores(self) -> tuple[Tensor, Tensor]:
        """All scores, and how many weights each stands for; both of shape `(scores,)`."""
        weights = [torch.full_like(s.values, s.weights).flatten() for s in self._scores]
        return torch.cat([s.values.detach().flatten() for s in self._scores]), torch.cat(weights)

    def density(self) -> float:
        """Kept weights / all weights of the encoder matrices, between 0 and 1."""
        kept = torch.stack([s.kept.sum() * s.weights for s in self._scores])
        return kept.sum().item() / sum(self.dense_sizes)  # read once: each read waits for the GPU

    def densities(self) -> dict[str, float]:
        """The density of every matrix, by layer and kind."""
        return {
            name: mask.scores.kept.float().mean().item() * size / dense
            for (name, mask), size, dense in zip(self.masks().items(), self.sizes, self.dense_sizes, strict=True)
        }

    def mean_sigmoid(self) -> Tensor:
        """Mean sigmoid of the scores, each counted with its weights: the regularizer (arXiv 2005.07683, section 4)."""
        total = sum(s.values.numel() * s.weights for s in self._scores)
        return cast(Tensor, sum(torch.sigmoid(s.values).sum() * s.weights for s in self._scores)) / total

    def set_threshold(self, threshold: float) -> None:
        """Keep what has a score above the threshold."""
        for scores in self._scores:
            scores.threshold = threshold

    @torch.no_grad()
    def keep(self, density: float) -> float:
        """Set the threshold that keeps at most `density` of all weights, at most a block or neuron less; return it.

        Blocks that are zero go first, whatever their score. Of equal scores at the threshold, those of the largest
        weights are raised by the least step, so that they stay.
        """
        (values, weights), sizes = self.flat_scores(), torch.cat([size.flatten() for size in self._magnitudes()])
        if (sizes > 0).any():
            values[sizes == 0] = values[sizes == 0].clamp_max(values[sizes > 0].min().item() - 1)
        threshold = threshold_for_density(values, weights, density)
        room = density * weights.double().sum() - weights.double()[values > threshold].sum()
        tied = (values == threshold).nonzero().flatten()
        tied = tied[sizes[tied].argsort(descending=True, stable=True)]
        staying = tied[weights[tied].double().cumsum(0) <= room + 1e-6]
        values[staying] = torch.nextafter(values[staying], torch.tensor(float("inf"), device=values.device))
        for scores, part in zip(self._scores, values.split([s.values.numel() for s in self._scores]), strict=True):
            scores.values.copy_(part.view_as(scores.values))
        self.set_threshold(threshold)
        return threshold

    @property
    def is_fixed(self) -> bool:
        """Whether the mask is given once and for all, and no score is learnt."""
        return not self._scores[0].values.requires_grad

    def fix_largest(self, density: float) -> None:
        """Fix a mask that keeps the blocks whose weights have the largest root mean square: the magnitude baseline.

        Blocks are ranked in each matrix by itself, as by Sanh et al. (arXiv 2005.07683): scales differ between
        matrices, so that a single ranking would remove whole matrices, and ruin the model.
        """
        self._score_by_magnitude()
        for number, scores in enumerate(self._scores):
            ranks = scores.values.flatten().argsort().argsort().view_as(scores.values) + 1
            scores.values.copy_((ranks - number / len(self._scores)) / ranks.numel())  # no two alike
        self.set_threshold(threshold_for_density(*self.flat_scores(), density))
        self._drop_pruned()

    def fix_nonzero(self) -> None:
        """Fix a mask that keeps the blocks that are not zero."""
        self._score_by_magnitude()
        self.set_threshold(0.0)
        self._drop_pruned()

    @torch.no_grad()
    def _magnitudes(self) -> list[Tensor]:
        """The root mean square of the weights that each score stands for, in the shapes of the scores."""
        squares = {scores: torch.zeros_like(scores.values) for scores in self._scores}
        for mask, matrix in zip(self.masks().values(), bert.matrices(self.model), strict=True):
            _, weight = mask_and_weight(matrix.linear)
            squares[mask.scores] += mask.block_sums(weight.square()) / mask.scores.weights
        return [sums.sqrt() for sums in squares.values()]

    @torch.no_grad()
    def _score_by_magnitude(self) -> None:
        for scores, size in zip(self._scores, self._magnitudes(), strict=True):
            scores.values.requires_grad_(False).copy_(size)

    def _drop_pruned(self) -> None:
        """Replace the masked matrices by layers without the pruned blocks, unless whole neurons were pruned.

        If nothing was pruned, they are dense layers: those are faster.
        """
        if any(mask.transposed for mask in self._masks.values()):
            return
        dense = all(mask.scores.kept.all() for mask in self._masks.values())
        for matrix, mask in zip(bert.matrices(self.model), self._masks.values(), strict=True):
            parametrize.remove_parametrizations(matrix.linear, "weight", leave_parametrized=True)
            if dense:
                continue
            layer = TrainableBlockSparseLinear.from_dense(matrix.linear, mask.scores.kept, mask.block(matrix.linear))
            self.model.set_submodule(matrix.name, layer)

    def instructions(self, x: Tensor) -> set[str]:
        """What multiplies activations like x with kept blocks, once blocks are fixed: instruction sets, or `torch`."""
        linears = [matrix.linear for matrix in bert.matrices(self.model)]
        return {linear.instructions(x) for linear in linears if isinstance(linear, TrainableBlockSparseLinear)}

    def apply_masks(self) -> BertForQuestionAnswering:
        """The model with plain weights, zero where they are masked; the pruner is of no use afterwards.

        FFN neurons are put in another order, kept ones first, where whole neurons were pruned: the function is the
        same, and blocks with only pruned neurons are empty.
        """
        pairs = zip(bert.matrices(self.model), self.masks().values(), strict=True)
        neurons = {matrix.layer: mask.scores.kept[:, 0] for matrix, mask in pairs if mask.transposed}
        for matrix in bert.matrices(self.model):
            if isinstance(matrix.linear, TrainableBlockSparseLinear):
                self.model.set_submodule(matrix.name, matrix.linear.to_dense())
            elif parametrize.is_parametrized(matrix.linear):
                parametrize.remove_parametrizations(matrix.linear, "weight", leave_parametrized=True)
        for number, kept in neurons.items():
            put_first(bert.layers(self.model)[number], kept)
        return self.model.eval()


def put_first(layer: BertLayer, kept: Tensor) -> None:
    """Put a layer's kept FFN neurons (bool, shape `(intermediate,)`) first, in place; it computes the same."""
    reorder_neurons(layer, (~kept).int().argsort(stable=True))


@torch.no_grad()
def reorder_neurons(layer: BertLayer, order: Tensor) -> None:
    """Put a layer's FFN neurons in another order, in place; it computes the same."""
    for parameter in (layer.intermediate.dense.weight, layer.intermediate.dense.bias):
        parameter.copy_(parameter[order])
    layer.output.dense.weight.copy_(layer.output.dense.weight[:, order])


def require_grid(matrix: bert.Matrix, block: Block) -> tuple[int, int]:
    """How many blocks a matrix has, down and across. Raises InputError if the block does not divide it."""
    (rows, columns), (height, width) = matrix.linear.weight.shape, block
    if height < 1 or width < 1 or rows % height or columns % width:
        raise InputError(f"blocks of {height}x{width} do not divide {matrix.name} of {rows}x{columns}")
    return rows // height, columns // width


def _block_scores(matrix: bert.Matrix, block: Block) -> Scores:
    return Scores(require_grid(matrix, block), block[0] * block[1])


def _neuron_scores(matrix: bert.Matrix) -> Scores:
    neurons, inputs = matrix.linear.weight.shape
    return Scores((neurons, 1), 2 * inputs)
