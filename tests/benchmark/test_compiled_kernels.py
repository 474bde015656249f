"""The GPU kernels, compiled where there is no GPU."""

import importlib.util

import pandas as pd
import pytest
from conftest import ROOT

from qalib.benchmark import compiled_kernels, ptx
from qalib.runtimes.add_norm import SIZES
from qalib.runtimes.panels import Tile, tiles


@pytest.mark.parametrize(("card", "products"), [(80, "mma.sync"), (90, "wgmma.mma_async")])
def test_the_kernel_compiles_for_a_card_that_is_not_there(card, products):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    made = compiled_kernels.compile_kernel(card, "bf16", (32, 32), Tile(64, 2, 64, 4, 5))
    assert any(line.startswith(products) for line in ptx.inner_loop(made.asm["ptx"]))
    row = compiled_kernels.row(card, "bf16", (32, 32), Tile(64, 2, 64, 4, 5))
    assert 32 <= row["registers"] <= 255 and row["spilled"] == 0 and row["fits"] and row["barriers"] == 2
    assert row["products"] == {80: 32, 90: 4}[card]
    assert set(row) == set(compiled_kernels.COLUMNS)


@pytest.mark.parametrize("card", [80, 90])
@pytest.mark.parametrize(("width", "size"), [(768, SIZES[0]), (384, SIZES[0]), (1024, SIZES[4])])
def test_residual_and_norm_compile_into_wide_loads_without_spills(card, width, size):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    for dtype in compiled_kernels.TYPES:
        row = compiled_kernels.norm_row(card, dtype, width, size)
        assert set(row) == set(compiled_kernels.NORM_COLUMNS) and 32 <= row["registers"] <= 128
        assert row["spilled"] == 0 and row["bytes_a_load"] == 16 and row["instructions"] > 100
        assert (row["barriers"] == row["shared"] == 0) == (size.warps == 1)


PTX = """
$L__tmp0:
 mov.b32 %r1, 0;
$L__BB0_1:                  // an earlier loop
 add.s32 %r1, %r1, 1;
 @%p1 bra $L__BB0_1;
$L__BB0_2:                  // =>This Inner Loop Header: Depth=1
 .loc 1 2 3
 // begin inline asm
 @%p3 cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 16, 16;
 // end inline asm
 bar.sync 0;
 mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 { %r1 }, { %r2 }, { %r3 }, { %r4 };
 @!%p2 bra $L__BB0_3;
$L__BB0_3:
 @%p2 bra $L__BB0_2;
 ret;
"""


def test_the_loop_is_that_of_the_products():
    kinds = [line.split(".")[0].split()[0] for line in ptx.inner_loop(PTX)]
    assert kinds == ["cp", "bar", "mma", "bra", "bra"]
    assert ptx.inner_loop("ret;") == []


def test_the_page_in_the_repository_has_every_size():
    text = (ROOT / "reports" / "benchmarks" / "compiled-kernels.md").read_text()
    for dtype, kind in compiled_kernels.TYPES.items():
        for tile in tiles((32, 32), kind):
            assert text.count(f"| {dtype} | {tile} |") == len(compiled_kernels.GPUS), tile
    for dtype in compiled_kernels.TYPES:
        for width in compiled_kernels.WIDTHS:
            for size in SIZES:
                assert text.count(f"| {dtype} | {width} | {size} |") == len(compiled_kernels.GPUS), (width, size)
    rows, norms = (
        pd.DataFrame([dict.fromkeys(columns, 1)])
        for columns in (compiled_kernels.COLUMNS, compiled_kernels.NORM_COLUMNS)
    )
    made = compiled_kernels.page(rows, norms, "Triton 0")
    assert made.splitlines()[:2] == text.splitlines()[:2] and made.count("| 1 | 1 |") >= 2
