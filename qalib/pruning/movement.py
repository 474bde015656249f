"""Movement pruning in blocks: scores, masks, schedules and losses.

After Movement Pruning (Sanh et al. 2020, arXiv 2005.07683) and Block Pruning For Faster Transformers (Lagunas et al.
2021, arXiv 2109.04838). Every block of a weight W has a score S. The forward pass uses W' = W * mask, where the mask of
a block is 1 if sigmoid(S) > threshold. The backward pass takes the mask's derivative for 1 (straight-through), so

    dL/dS = sum over the block of dL/dW' * W

and a score rises where training moves the block's weights away from zero. The training itself is in `training.py`.

>>> linear = nn.Linear(4, 2, bias=False)
>>> scores = Scores((1, 2), weights=4)  # two blocks of 2x2
>>> mask = Mask(scores)
>>> scores.values.data = torch.tensor([[-1.0, 1.0]])
>>> scores.cut = 0.0
>>> mask(torch.ones(2, 4))
tensor([[0., 0., 1., 1.],
        [0., 0., 1., 1.]], grad_fn=<ViewBackward0>)
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from transformers import BertForQuestionAnswering

from qalib.model import bert
from qalib.model.blocks import Block
from qalib.utils.errors import InputError

FFN = ("block", "rows")


class _Above(torch.autograd.Function):
    """1 where a score is above the cut, else 0; the gradient passes as if it were the score itself."""

    @staticmethod
    def forward(ctx, scores: Tensor, cut: float) -> Tensor:
        return (scores > cut).to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Scores(nn.Module):
    """The scores of a matrix, shape `(rows/height, columns/width)`, or of a layer's FFN neurons, shape `(neurons, 1)`.

    A block is kept if its score is above `cut`, the logit of the threshold. Each stands for `weights` weights.
    """

    def __init__(self, shape: tuple[int, int], weights: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(shape))
        self.weights = weights
        self.cut = -math.inf

    @property
    def kept(self) -> Tensor:
        """Which blocks are kept: bool, shape as the scores."""
        return self.values.detach() > self.cut


class Mask(nn.Module):
    """The parametrization W' = W * mask of a weight; with `transposed` a score is a column's, not a row's."""

    def __init__(self, scores: Scores, transposed: bool = False):
        super().__init__()
        # Not as a submodule: two masks may share the scores, and a state dict must not hold a tensor twice.
        object.__setattr__(self, "scores", scores)
        self.transposed = transposed

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, of the same shape."""
        kept = _Above.apply(self.scores.values, self.scores.cut)
        kept = kept.T if self.transposed else kept
        return (self._tiles(weight) * kept[:, None, :, None]).view_as(weight)

    def sums(self, weight: Tensor) -> Tensor:
        """The sum over each block of a tensor shaped as the weight; shape as the scores."""
        sums = self._tiles(weight).sum((1, 3))
        return sums.T if self.transposed else sums

    def _tiles(self, weight: Tensor) -> Tensor:
        rows, columns = self.scores.values.T.shape if self.transposed else self.scores.values.shape
        return weight.view(rows, weight.shape[0] // rows, columns, weight.shape[1] // columns)


class Pruner(nn.Module):
    """A model with masks over the six matrices of each encoder layer; called with inputs, it gives `logits`.

    `ffn="block"` scores blocks everywhere. `ffn="rows"` scores blocks in attention and whole FFN neurons, a row of FFN
    in together with the same column of FFN out (the hybrid of arXiv 2109.04838, section 3).
    Raises InputError for another `ffn`, or if the block does not divide a matrix.
    """

    def __init__(
        self,
        model: BertForQuestionAnswering,
        block: Block = (32, 32),
        ffn: str = "block",
        sizes: list[int] | None = None,
    ):
        super().__init__()
        if ffn not in FFN:
            raise InputError(f"ffn {ffn!r}: choose one of {', '.join(FFN)}")
        self.model = model
        self.scores = nn.ModuleList()
        self.penalty = 0.0
        # Part of the state dict, so that a resumed run goes on with them: the seconds trained, and the logarithm of
        # the factor by which the regulariser's weight is steered.
        self.register_buffer("clock", torch.zeros((), dtype=torch.float64))
        self.register_buffer("pressure", torch.zeros((), dtype=torch.float64))
        self.sizes = sizes or [matrix.linear.weight.numel() for matrix in bert.matrices(model)]
        for matrix in bert.matrices(model):
            neurons = ffn == "rows" and matrix.kind.startswith("FFN")
            if not (neurons and matrix.kind == "FFN out"):
                self.scores.append(_neuron_scores(matrix) if neurons else _block_scores(matrix, block))
            mask = Mask(self.scores[-1], transposed=neurons and matrix.kind == "FFN out")
            parametrize.register_parametrization(matrix.linear, "weight", mask)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`logits` of the masked model."""
        return logits(self.model, input_ids, token_type_ids, attention_mask)

    def masks(self) -> dict[str, Mask]:
        """The mask of every matrix, by layer and kind: `0 query`, `0 key`, ..."""
        return {f"{m.layer} {m.kind}": m.linear.parametrizations.weight[0] for m in bert.matrices(self.model)}

    def flat(self) -> tuple[Tensor, Tensor]:
        """All scores, and how many weights each stands for; both of shape `(scores,)`."""
        weights = [torch.full_like(s.values, s.weights).flatten() for s in self.scores]
        return torch.cat([s.values.detach().flatten() for s in self.scores]), torch.cat(weights)

    def density(self) -> float:
        """Kept weights / all weights of the encoder matrices, between 0 and 1."""
        return sum(s.kept.sum().item() * s.weights for s in self.scores) / sum(self.sizes)

    def densities(self) -> dict[str, float]:
        """The density of every matrix, by layer and kind."""
        owned = [m.linear.parametrizations.weight.original.numel() for m in bert.matrices(self.model)]
        return {
            name: mask.scores.kept.float().mean().item() * own / size
            for (name, mask), own, size in zip(self.masks().items(), owned, self.sizes, strict=True)
        }

    def regulariser(self) -> Tensor:
        """Mean sigmoid of the scores, each counted with its weights (arXiv 2005.07683, section 4)."""
        total = sum(s.values.numel() * s.weights for s in self.scores)
        return sum(torch.sigmoid(s.values).sum() * s.weights for s in self.scores) / total

    def cut(self, score: float) -> None:
        """Keep what has a score above `score`."""
        for scores in self.scores:
            scores.cut = score

    @property
    def fixed(self) -> bool:
        """Whether the masks are given once and for all, and no score is learnt."""
        return not self.scores[0].values.requires_grad

    def fix_by_magnitude(self, density: float) -> None:
        """Keep the blocks whose weights have the largest root mean square, and fix that: the magnitude baseline.

        Blocks are ranked in each matrix by itself, as by Sanh et al. (arXiv 2005.07683): scales differ from matrix to
        matrix, so that in one ranking of all whole matrices would go, and the model with them.
        """
        self._score_by_magnitude()
        for number, scores in enumerate(self.scores):
            ranks = scores.values.flatten().argsort().argsort().view_as(scores.values) + 1
            scores.values.copy_((ranks - number / len(self.scores)) / ranks.numel())  # no two alike
        self.cut(cut_for(*self.flat(), density))

    def fix_as_is(self) -> None:
        """Keep the blocks that are not zero, and fix that."""
        self._score_by_magnitude()
        self.cut(0.0)

    @torch.no_grad()
    def _score_by_magnitude(self) -> None:
        for scores in self.scores:
            scores.values.zero_().requires_grad_(False)
        for mask, matrix in zip(self.masks().values(), bert.matrices(self.model), strict=True):
            squares = matrix.linear.parametrizations.weight.original.square()
            mask.scores.values += mask.sums(squares) / mask.scores.weights
        for scores in self.scores:
            scores.values.sqrt_()

    def bake(self) -> BertForQuestionAnswering:
        """The model with plain weights, zero where the mask is; the pruner is of no use afterwards.

        FFN neurons are put in another order, kept ones first, where whole neurons were pruned: the function is the
        same, and blocks that hold none but pruned neurons are empty.
        """
        rows = {m.layer: mask.scores.kept[:, 0] for m, mask in zip(bert.matrices(self.model), self.masks().values(),
                strict=True) if mask.transposed}  # fmt: skip
        for matrix in bert.matrices(self.model):
            parametrize.remove_parametrizations(matrix.linear, "weight", leave_parametrized=True)
        with torch.no_grad():
            for number, kept in rows.items():
                layer, order = bert.layers(self.model)[number], (~kept).int().argsort(stable=True)
                for parameter in (layer.intermediate.dense.weight, layer.intermediate.dense.bias):
                    parameter.copy_(parameter[order])
                layer.output.dense.weight.copy_(layer.output.dense.weight[:, order])
        return self.model.eval()


def _block_scores(matrix: bert.Matrix, block: Block) -> Scores:
    (rows, columns), (height, width) = matrix.linear.weight.shape, block
    if height < 1 or width < 1 or rows % height or columns % width:
        raise InputError(f"blocks of {height}x{width} do not divide {matrix.name} of {rows}x{columns}")
    return Scores((rows // height, columns // width), height * width)


def _neuron_scores(matrix: bert.Matrix) -> Scores:
    neurons, inputs = matrix.linear.weight.shape
    return Scores((neurons, 1), 2 * inputs)


def logits(model: nn.Module, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Start and end logits, shape `(batch, 2, length)`, float32; at padding the most negative number."""
    output = model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
    both = torch.stack([output.start_logits, output.end_logits], 1).float()
    return both.masked_fill(attention_mask[:, None] == 0, torch.finfo(torch.float32).min)


def cut_for(scores: Tensor, weights: Tensor, density: float) -> float:
    """The score above which at most `density` of all weights are kept, as many as can be.

    `weights` says how many weights a score stands for; both of shape `(scores,)`. Equal scores stay or go together.

    >>> cut_for(torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.ones(4), 0.5)
    2.0
    """
    order = scores.argsort(descending=True)
    share = weights[order].double().cumsum(0) / weights.double().sum()
    kept = int((share <= density + 1e-9).sum())
    return scores[order[kept]].item() if kept < len(scores) else -math.inf


def distillation(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
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
