"""The dense runtimes: every weight multiplied, zeros included, by torch as it is or by torch.compile."""

import copy
from functools import cache

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.forward import Forward
from qalib.runtimes.registry import runtime
from qalib.utils.errors import InputError, one_line


@cache
def compile_unavailable_reason(kind: str) -> str | None:
    """Return why torch.compile fails on a kind of device (no C++ compiler, no Triton), or None; by trying it."""
    try:
        torch.compile(torch.cos, dynamic=False)(torch.zeros(64, device=kind))
    except Exception as error:  # what it raises differs from cause to cause
        return one_line(error)
    return None


class Compiled(nn.Module):
    """A question-answering model, compiled at the first call with a shape; that one takes a minute or more."""

    def __init__(self, model: BertForQuestionAnswering, device: torch.device):
        super().__init__()
        if (reason := compile_unavailable_reason(device.type)) is not None:
            raise InputError(f"torch.compile does not work on {device} here: {reason}")
        self.model = Forward(model)
        self.run = torch.compile(
            self.model, mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False
        )

    def forward(self, **inputs: Tensor) -> QuestionAnsweringModelOutput:
        """As Forward's: without `attention_mask` there is no padding, and no mask."""
        output = self.run(**inputs)
        # CUDA graphs write the next result to the same memory.
        return QuestionAnsweringModelOutput(
            start_logits=output.start_logits.clone(), end_logits=output.end_logits.clone()
        )


@runtime("dense", "every weight multiplied, zeros included", sparse=False, dtypes=("fp32", "bf16", "tf32"))
def dense(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Copy the model."""
    return bert.to(copy.deepcopy(checkpoint.model), device, dtype)


@runtime("dense-compiled", "dense through torch.compile, on a GPU with CUDA graphs", opt_in=True, sparse=False)
def _dense_compiled(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return Compiled(bert.to(copy.deepcopy(checkpoint.model), device, dtype).eval(), device)
