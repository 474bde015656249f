"""The compact runtime in CUDA graphs: query, key and value in one product, residual and norm in one kernel."""

import torch
from torch import nn

from qalib.model.checkpoint import Checkpoint
from qalib.runtimes import compact
from qalib.runtimes.gpu import block_sparse, graphs
from qalib.runtimes.registry import runtime


@runtime("compact-graph", "compact, query, key and value in one product, in CUDA graphs (GPU)", devices=("cuda",))
def compact_graph(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build the module on a GPU, or for a rehearsal on a CPU."""
    cut = compact.build(checkpoint.model, device, dtype, checkpoint.block)
    return graphs.capture(block_sparse.convert(cut), device)
