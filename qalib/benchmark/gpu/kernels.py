"""What the card can do at most, and what follows from it for one layer: its products, and its residual with norm."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer

from qalib.benchmark.gpu.settings import Rows, Settings, missing, model_of, tried
from qalib.model import bert, blocks
from qalib.runtimes import compact
from qalib.runtimes.cpu.block_sparse import AddNorm
from qalib.runtimes.gpu import add_norm, panels, tuning
from qalib.runtimes.gpu import block_sparse as block_sparse_gpu
from qalib.runtimes.gpu.add_norm import FusedAddNorm, WithItself
from qalib.runtimes.gpu.tuning import Time

LAYER = 4  # whose products are timed
Product = tuple[Tensor, Tensor, bool]
"""Weight, bias, and whether GELU follows."""


@torch.inference_mode()
def kernels(settings: Settings) -> None:
    """One row a measurement, by `kind`: ceiling, twin and real (products of layer LAYER), norm. Milliseconds.

    `error` says why there are none.
    """
    rows = Rows(settings, "kernels")
    for row in ceilings(settings):
        rows.add({"kind": "ceiling"} | row)
    for kind in ("twin", "real"):
        for row in () if missing(kind, settings) else products(kind, settings):
            rows.add({"kind": kind} | row)
    for row in norms(settings):
        rows.add({"kind": "norm"} | row)


def ceilings(settings: Settings) -> Iterator[dict[str, Any]]:
    """The rates of a large product and of a copy, `value` in a `unit`: where they are low, only ratios count."""
    time, side = clock(settings), settings.side
    a = torch.randn(side, side, device=settings.device, dtype=torch.bfloat16)
    rate = tried(lambda: {"value": 2e-9 * side**3 / time(lambda x: x @ x, a)})
    yield {"way": f"product of {side} x {side} in bf16", "unit": "TFLOP/s"} | rate
    rate = tried(lambda: {"value": 2e-6 * a.nbytes / time(torch.clone, a)})
    yield {"way": f"copy of {a.nbytes / 1e6:.0f} MB, read and written", "unit": "GB/s"} | rate


def products(kind: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """The products of a layer in every way, at several numbers of tokens."""
    with model_of(kind, settings) as loaded:
        small = compact.build(loaded.model, torch.device(settings.device), torch.bfloat16, loaded.block)
        cut = _products(bert.layers(small))
        full = _products(bert.layers(bert.to(loaded.model, settings.device, torch.bfloat16)))
        for product in cut:
            kept = blocks.mask(cut[product][0], loaded.block).float().mean().item()
            for tokens in settings.tokens:
                about = {"product": product, "tokens": tokens, "kept": kept}
                for way, row in _timed(full[product], cut[product], loaded.block, tokens, settings):
                    yield about | {"way": way} | row


def _timed(
    full: Product, cut: Product, block: blocks.Block, tokens: int, settings: Settings
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A product in every way: dense at full and at compact size, and panels in every size."""

    def timed(make: Callable[[], nn.Module], weight: Tensor) -> dict[str, Any]:
        x = torch.randn(tokens, weight.shape[1], device=settings.device, dtype=weight.dtype)
        return tried(lambda: {"milliseconds": clock(settings)(make(), x)})

    yield "dense", timed(lambda: block_sparse_gpu.DenseLinear(*full), full[0])
    yield "compact", timed(lambda: block_sparse_gpu.DenseLinear(*cut), cut[0])
    weight, bias, gelu = cut
    for tile in panels.tiles(block, weight.dtype):
        yield f"panels {tile}", timed(partial(panels.PanelLinear, weight, bias, block, gelu, tile), weight)


def _products(layers: Sequence[BertLayer]) -> dict[str, Product]:
    """The four products of layer LAYER, or the last."""
    layer = layers[min(LAYER, len(layers) - 1)]
    attention = layer.attention
    three = [getattr(attention.self, name) for name in ("query", "key", "value")]
    return {
        "query, key, value": (torch.cat([p.weight for p in three]), torch.cat([p.bias for p in three]), False),
        "attention output": (attention.output.dense.weight, attention.output.dense.bias, False),
        "FFN in": (layer.intermediate.dense.weight, layer.intermediate.dense.bias, True),
        "FFN out": (layer.output.dense.weight, layer.output.dense.bias, False),
    }


def norms(settings: Settings) -> Iterator[dict[str, Any]]:
    """Residual and LayerNorm in bf16, at several widths and numbers of tokens: torch's two kernels, ours in every size.

    `x` stands for both, so that a third less is read than in a model, by all of them.
    """
    for width in settings.widths:
        norm = nn.LayerNorm(width, device=settings.device, dtype=torch.bfloat16)
        ways = {"torch": partial(AddNorm, norm)}
        ways |= {f"kernel {size}": partial(FusedAddNorm, norm, size) for size in add_norm.SIZES}
        for tokens in settings.tokens:
            x = torch.randn(tokens, width, device=settings.device, dtype=torch.bfloat16)
            for way, make in ways.items():
                row = tried(lambda make=make, x=x: {"milliseconds": clock(settings)(WithItself(make()), x)})
                yield {"product": f"residual, norm of {width}", "tokens": tokens, "way": way} | row


def clock(settings: Settings) -> Time:
    """Milliseconds of a layer on the device."""

    def on_cpu(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
        began = time.perf_counter()
        layer(x)
        return 1e3 * (time.perf_counter() - began)

    return tuning.milliseconds if settings.device == "cuda" else on_cpu
