"""A model compiled by torch: on a GPU with CUDA graphs, so that nothing waits for Python."""

from functools import cache

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qalib.runtimes.forward import Forward
from qalib.utils.errors import InputError, one_line


@cache
def unavailable_reason(kind: str) -> str | None:
    """Why torch.compile does not work on a kind of device (no C++ compiler, no Triton), or None: it is tried."""
    try:
        torch.compile(torch.cos, dynamic=False)(torch.zeros(64, device=kind))
    except Exception as error:  # what it raises differs from cause to cause
        return one_line(error)
    return None


class Compiled(nn.Module):
    """A question-answering model, compiled at the first call with a shape; that one takes a minute or more."""

    def __init__(self, model: BertForQuestionAnswering, device: torch.device):
        super().__init__()
        if (reason := unavailable_reason(device.type)) is not None:
            raise InputError(f"torch.compile does not work on {device} here: {reason}")
        self.model = Forward(model)
        self.run = torch.compile(
            self.model, mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False
        )

    def forward(self, **inputs: Tensor) -> QuestionAnsweringModelOutput:
        """As Forward's: without `attention_mask` there is no padding, and no mask."""
        found = self.run(**inputs)
        # CUDA graphs write the next result to the same memory.
        return QuestionAnsweringModelOutput(
            start_logits=found.start_logits.clone(), end_logits=found.end_logits.clone()
        )
