"""A peer's session: another library's model, called as BertForQuestionAnswering is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qalib.runtimes.export.onnx_graph import INPUTS

Run = Callable[[dict[str, np.ndarray]], Sequence[Any]]  # start logits, end logits and, if it times itself, seconds
PEER: dict[str, Any] = {"devices": ("cpu",), "opt_in": True, "sparse": False, "peer": True}  # a dense peer's entry


@dataclass
class TimedOutput(QuestionAnsweringModelOutput):
    """Logits, and the seconds they took by the clock of the process that computed them; None without such a clock."""

    seconds: float | None = None


class Session(nn.Module):
    """Another library's model, called as BertForQuestionAnswering is."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> TimedOutput:
        """Token numbers of shape `(batch, length)` to two tensors of logits of that shape, float32."""
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        values = [tensor.numpy() for tensor in (input_ids, mask, types)]
        starts, ends, *seconds = self.run(dict(zip(INPUTS, values, strict=True)))
        return TimedOutput(
            start_logits=torch.from_numpy(starts),
            end_logits=torch.from_numpy(ends),
            seconds=seconds[0] if seconds else None,
        )
