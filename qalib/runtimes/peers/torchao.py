"""torchao, dense, dynamic int8, compiled by torch."""

import copy

import torch
from torch import nn
from transformers import BertForQuestionAnswering

from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export.onnx_graph import quiet
from qalib.runtimes.peers.session import PEER
from qalib.runtimes.registry import not_installed, runtime


def torchao_int8(model: BertForQuestionAnswering) -> BertForQuestionAnswering:
    """torchao with int8 weights and activations quantised as they come, compiled by torch; the model itself."""
    with quiet():
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    model.compile()
    return model


@runtime(
    "torchao-int8",
    "torchao, dense, dynamic int8, compiled",
    exact=False,
    unavailable_reason=not_installed("torchao"),
    **PEER,
)
def _torchao_int8(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return torchao_int8(bert.to(copy.deepcopy(checkpoint.model), dtype=dtype))
