"""Attention by relative position as MPNet has it: a learned bias on the scores, from one table for all layers.

The table has a row for each of T5's 32 buckets of distances (arXiv 1910.10683, section 2.1) and a column for each head.
Distances of 128 tokens and more share a bucket, on either side.
"""

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder, BertSelfAttention
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

BUCKETS, MAX_DISTANCE = 32, 128


class PositionBias:
    """The bias of windows of one length, and how attention takes it, together with their padding mask.

    `by_distance`, shape `(heads, 2 * length - 1)`, has the bias of a query and a key at `key - query + length - 1`.
    """

    def __init__(self, by_distance: Tensor, attention_mask: Tensor | None = None):
        self.by_distance, self.attention_mask = by_distance, attention_mask
        self._mask: Tensor | None = None

    def of(self, heads: Tensor | None) -> "PositionBias":
        """The bias of some heads, by number; of all of them, None, the mask is made once for all layers."""
        return self if heads is None else PositionBias(self.by_distance[heads], self.attention_mask)

    @property
    def mask(self) -> Tensor:
        """What is added to the scores: shape `(batch or 1, heads, length, length)`, the lowest number at padding."""
        if self._mask is None:
            length = (self.by_distance.shape[1] + 1) // 2  # not by len(): it has to stay symbolic in an export
            places = torch.arange(length, device=self.by_distance.device)
            bias, padding = self.by_distance[:, places - places[:, None] + length - 1][None], self.attention_mask
            if padding is None:
                self._mask = bias
            elif padding.dtype == torch.bool:
                self._mask = torch.where(padding, bias, torch.finfo(bias.dtype).min)
            else:
                self._mask = bias + padding.to(bias.dtype)
        return self._mask


class RelativeAttentionBias(nn.Module):
    """The table, `weight` of shape `(BUCKETS, heads)`."""

    buckets: Tensor

    def __init__(self, heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(BUCKETS, heads))
        distances = torch.arange(-MAX_DISTANCE, MAX_DISTANCE + 1, device="cpu")
        buckets = MPNetEncoder.relative_position_bucket(distances, BUCKETS, MAX_DISTANCE)
        self.register_buffer("buckets", buckets, persistent=False)

    def forward(self, length: int) -> Tensor:
        """The bias for windows of `length` tokens, shape `(heads, 2 * length - 1)` (see `PositionBias`)."""
        distances = torch.arange(1 - length, length, device=self.weight.device).clamp(-MAX_DISTANCE, MAX_DISTANCE)
        return self.weight[self.buckets[distances + MAX_DISTANCE]].T


class RelativeSelfAttention(BertSelfAttention):
    """BERT's self-attention with a bias on its scores; `heads` are the numbers of those it has, None for all."""

    heads: Tensor | None

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.register_buffer("heads", None, persistent=False)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *, position_bias: PositionBias, **named
    ) -> tuple[Tensor | None, ...]:
        """As BertSelfAttention's; the mask is the one that `position_bias` was made with."""
        return super().forward(hidden_states, attention_mask=position_bias.of(self.heads).mask, **named)


class RelativeEncoder(BertEncoder):
    """BERT's encoder whose layers are given a `position_bias`."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.relative_attention_bias = RelativeAttentionBias(config.num_attention_heads)
        for layer in self.layer:
            layer.set_submodule("attention.self", RelativeSelfAttention(config))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *rest, **named):
        """As BertEncoder's."""
        named["position_bias"] = self.position_bias(hidden_states, attention_mask)
        return super().forward(hidden_states, attention_mask, *rest, **named)

    def position_bias(self, hidden_states: Tensor, attention_mask: Tensor | None) -> PositionBias:
        """The bias for states of shape `(batch, length, width)`, in their type."""
        by_distance = self.relative_attention_bias(hidden_states.shape[1])
        return PositionBias(by_distance.to(hidden_states.dtype), attention_mask)
