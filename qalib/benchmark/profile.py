"""Profile: what a forward pass costs with zeros in one place or another, and where its time goes."""

import time
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.bert.modeling_bert import BertSelfAttention

from qalib import runtimes, sparsity
from qalib.model import bert
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import magnitude
from qalib.runtimes.cpu.block_sparse_linear import AttentionProducts, BlockSparseLinear
from qalib.runtimes.forward import forward, random_inputs
from qalib.utils.timing import interleave

# Components of a forward pass by the modules that do them; a module's time is without that of the modules in it.
COMPONENTS = {
    "linear layers": (nn.Linear, BlockSparseLinear),
    "attention products": (BertSelfAttention, AttentionProducts),
    "GELU": GELUActivation,
    "layer norms": nn.LayerNorm,
}


def without_zeros(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """A copy without zeros: random weights where the encoder matrices have zeros. For times, not for answers."""
    full = checkpoint.copy()
    generator = torch.Generator().manual_seed(seed)
    for matrix in bert.matrices(full.model):
        weight = matrix.linear.weight.data
        fresh = 0.02 * torch.randn(weight.shape, generator=generator)
        weight.copy_(torch.where(weight == 0, fresh, weight))
    return full


def compare_zero_patterns(
    checkpoint: Checkpoint,
    names: Sequence[str] = ("compact", "block-sparse"),
    batch: int = 4,
    length: int = 128,
    repeats: int = 7,
    progress: bool = True,
) -> pd.DataFrame:
    """Time one forward pass of the same shape with zeros nowhere, scattered, in blocks, and under other runtimes.

    There are as many scattered zeros as the checkpoint has. One row per candidate: candidate, zeros (share of the
    encoder weights that are stored as zeros), median_seconds, spread_seconds, speedup (over no zeros, medians of the
    same run) and multiply_add_ratio (all multiply-adds / those that are not by zero).
    """
    full = without_zeros(checkpoint)
    scattered = magnitude.prune(full, sparsity.density(checkpoint, (1, 1)), magnitude.GRANULARITIES["single weights"])
    modules = {
        "dense: no zeros": runtimes.build("dense", full),
        "dense: zeros scattered": runtimes.build("dense", scattered),
        "dense: zeros in blocks": runtimes.build("dense", checkpoint),
    } | {f"{name}: zeros in blocks": runtimes.build(name, checkpoint) for name in names}
    inputs = random_inputs(checkpoint, batch, length)
    runs = {name: partial(forward, module, inputs) for name, module in modules.items()}
    timings = interleave(runs, repeats, progress=progress)
    work = sparsity.multiply_adds(checkpoint, length).set_index("part")
    skipped = (1 - sparsity.density(checkpoint, (1, 1))) * work["dense"]["encoder matrices"]
    scattered_ratio = work["dense"].sum() / (work["dense"].sum() - skipped)
    ratios = {
        "no zeros": 1.0,
        "zeros scattered": scattered_ratio,
        "zeros in blocks": work["dense"].sum() / work["sparse"].sum(),
    }
    base = timings["dense: no zeros"].median
    rows = [
        {
            "candidate": name,
            "zeros": _zeros(module),
            "median_seconds": timings[name].median,
            "spread_seconds": timings[name].iqr,
            "speedup": base / timings[name].median,
            "multiply_add_ratio": float(ratios[name.split(": ")[1]]),
        }
        for name, module in modules.items()
    ]
    return pd.DataFrame(rows)


def breakdown(modules: Mapping[str, nn.Module], inputs: dict[str, Tensor], rounds: int = 7) -> pd.DataFrame:
    """Milliseconds of a forward pass on the CPU, by component (rows: COMPONENTS, "the rest") and module (columns).

    As in `timing.interleave`, every round runs each module once, after a round that does not count; medians.
    """
    found = [{name: _clocked(module, inputs) for name, module in modules.items()} for _ in range(rounds + 1)][1:]
    medians = {name: pd.DataFrame(run[name] for run in found).median() for name in modules}
    return 1000 * pd.DataFrame(medians)


class _Clock:
    """Seconds by component; time counts for the innermost module that is running."""

    def __init__(self, components: dict[nn.Module, str]):
        self.components = components
        self.seconds = dict.fromkeys([*COMPONENTS, "the rest"], 0.0)
        self.running = ["the rest"]
        self.last = time.perf_counter()

    def count(self) -> None:
        """Add the time since the last call to what was running."""
        now = time.perf_counter()
        self.seconds[self.running[-1]] += now - self.last
        self.last = now

    def enter(self, module: nn.Module, _) -> None:
        """A hook before a module's forward."""
        self.count()
        self.running.append(self.components[module])

    def leave(self, *_) -> None:
        """A hook after a module's forward."""
        self.count()
        self.running.pop()


def _clocked(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Seconds of one forward pass by component."""
    components = {m: name for m in module.modules() for name, kind in COMPONENTS.items() if isinstance(m, kind)}
    clock = _Clock(components)
    hooks = [m.register_forward_pre_hook(clock.enter) for m in components]
    hooks += [m.register_forward_hook(clock.leave) for m in components]
    try:
        clock.last = time.perf_counter()
        forward(module, inputs)
        clock.count()
    finally:
        for hook in hooks:
            hook.remove()
    return clock.seconds


def _zeros(module: nn.Module) -> float:
    matrices = [p for n, p in module.named_parameters() if p.ndim == 2 and "encoder" in n]
    return sum(int((m == 0).sum()) for m in matrices) / max(1, sum(m.numel() for m in matrices))
