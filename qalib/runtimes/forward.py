"""A forward pass, random inputs for it, and that of BertForQuestionAnswering for torch.compile and CUDA graphs.

transformers makes a mask for every batch that it cannot look at, as while it is compiled or captured, and a mask keeps
attention from the flash kernel. In `Forward` a batch without `attention_mask` has no padding, and attention no mask.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qalib.model.checkpoint import Checkpoint


def random_inputs(checkpoint: Checkpoint, batch: int, length: int) -> dict[str, Tensor]:
    """Random tokens of shape `(batch, length)` without padding: without `attention_mask`, no runtime has a mask."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(checkpoint.model.config.vocab_size, (batch, length), generator=generator)
    return {"input_ids": ids}


def forward(module: nn.Module, inputs: dict[str, Tensor]) -> QuestionAnsweringModelOutput:
    """One forward pass without gradients, to its end."""
    with torch.inference_mode():
        output = module(**inputs)
        if inputs["input_ids"].is_cuda:
            torch.cuda.synchronize()
    return output


class Forward(nn.Module):
    """A question-answering model called as itself: `attention_mask` is 0 at padding, and None where there is none."""

    def __init__(self, model: BertForQuestionAnswering):
        super().__init__()
        model.set_attn_implementation("sdpa")  # takes a mask of bools
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> QuestionAnsweringModelOutput:
        """Token numbers of shape `(batch, length)` to start and end logits of that shape."""
        x = self.model.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        x = self.model.bert.encoder(x, attention_mask=mask).last_hidden_state
        starts, ends = self.model.qa_outputs(x).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends)


class Tf32(nn.Module):
    """A module whose float32 matrices are multiplied as tf32 numbers (10 bits of fraction) on a GPU's matrix units."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The module's own, under torch's setting for it, which is put back."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return self.model(*inputs, **named)
        finally:
            torch.set_float32_matmul_precision(before)
