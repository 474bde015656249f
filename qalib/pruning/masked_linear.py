"""A linear layer whose weight is masked by scores that are learnt: it multiplies the blocks kept at the moment.

y and the gradient of x skip the other blocks. The gradient of the weight is dense, as the scores of pruned blocks learn
from it (see `movement`).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils import parametrize

from qalib.pruning.movement import Mask
from qalib.runtimes.cpu.pattern import BlockPattern


class _MaskedProduct(torch.autograd.Function):
    """x (W * mask)^T + b, with the gradients of `Mask`: the mask's derivative by the scores is taken to be 1."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, scores: Tensor, mask: Mask, pattern: BlockPattern):
        ctx.save_for_backward(x, weight)
        ctx.mask, ctx.pattern = mask, pattern
        return pattern.multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), pattern = ctx.saved_tensors, ctx.pattern
        dx = pattern.multiply(dy, weight, None, transposed=True) if ctx.needs_input_grad[0] else None
        dy = dy.reshape(-1, dy.shape[-1])
        dw = (dy.T @ x.reshape(-1, x.shape[-1])).to(weight.dtype)
        scores = ctx.mask.block_sums(dw * weight)
        ctx.mask.tiles(dw).mul_(pattern.kept[:, None, :, None])
        return dx, dw, dy.sum(0, dtype=torch.float32).to(weight.dtype), scores, None, None


def mask_and_weight(linear: nn.Linear) -> tuple[Mask, Tensor]:
    """Return the mask that is the parametrization of a layer's weight, and the weight as it is without it."""
    of_weight = cast(parametrize.ParametrizationList, linear.get_submodule("parametrizations.weight"))
    return cast(Mask, of_weight[0]), cast(Tensor, of_weight.original)


class MaskedLinear(nn.Linear):
    """nn.Linear with a `Mask` as the parametrization of its weight."""

    pattern: BlockPattern | None

    @classmethod
    def of(cls, linear: nn.Linear, mask: Mask) -> "MaskedLinear":
        """A masked layer that has the parameters of another."""
        made = cls(1, 1, device="meta")  # nn.Linear warns when it has to initialise an empty weight
        made.in_features, made.out_features = linear.in_features, linear.out_features
        made.weight, made.bias = linear.weight, linear.bias
        made.pattern = None
        parametrize.register_parametrization(made, "weight", mask)
        return made

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape `(..., in_features)` to `(..., out_features)`."""
        if not parametrize.is_parametrized(self):
            return super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        mask, weight = mask_and_weight(self)
        pattern = self._pattern(mask)
        on_cpu = x.device.type == weight.device.type == "cpu"
        if mask.transposed or not on_cpu or not pattern.pays(x.dtype):
            return functional.linear(x, self.weight, self.bias)
        return _MaskedProduct.apply(x, weight, self.bias, mask.scores.values, mask, pattern)

    def _pattern(self, mask: Mask) -> BlockPattern:
        kept = mask.scores.kept
        if self.pattern is None or not torch.equal(self.pattern.kept, kept):
            self.pattern = BlockPattern(kept, mask.block(self), whole=True)
        return self.pattern
