import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from qalib import runtimes
from qalib.benchmark import latency, pace, sweep
from qalib.cli import app
from qalib.model import bert, blocks
from qalib.report import plots
from qalib.runtimes.cpu import instruction_sets
from qalib.utils import timing
from qalib.utils.errors import InputError

HOW = {"names": ["compact", "block-sparse"], "dtypes": ["fp32"], "batch": 1, "repeats": 1, "progress": False}


def test_over_density(sparse):
    before = {name: value.clone() for name, value in sparse.model.state_dict().items()}
    rows = sweep.density(sparse, (0.25, 1.0), length=16, **HOW)
    assert list(rows.density) == [0.25] * 3 + [1.0] * 3 and set(rows.runtime) == {"dense", "compact", "block-sparse"}
    bounds = rows[rows.runtime == "block-sparse"].set_index("density").bound
    assert bounds[0.25] > 1.5 and bounds[1.0] == pytest.approx(1)
    assert all(torch.equal(value, before[name]) for name, value in sparse.model.state_dict().items())
    axes = plots.speed.sweep(rows, "density").axes[0]
    assert axes.get_xlabel() == "density of the encoder matrices"
    assert axes.get_ylabel() == "speedup over dense fp32,\nthe fastest dense runtime"
    rows = rows.assign(speedup_over_best=7.0, best_baseline=["openvino bf16", "dense fp32"] * 3)
    axes = plots.speed.sweep(rows, "density").axes[0]
    assert axes.get_ylabel() == "speedup over the fastest dense runtime" and set(axes.lines[1].get_ydata()) == {7.0}
    ratio = dict(zip(*axes.lines[2].get_data(), strict=True))
    assert axes.lines[2].get_label() == "multiply-add ratio" and ratio == bounds.to_dict()  # at 1 too


def test_over_density_in_the_blocks_of_the_model(sparse, monkeypatch):
    """Not in blocks of the usual size, which would be timed as if they were the model's."""
    timed = []
    monkeypatch.setattr(latency, "compare", lambda checkpoint, **rest: timed.append(checkpoint) or pd.DataFrame())
    sweep.density(replace(sparse, block=(8, 4)), (0.1,))
    weight = bert.matrices(timed[0].model)[0].linear.weight
    kept = blocks.mask(weight, (8, 4))
    assert timed[0].block == (8, 4) and kept.float().mean() == pytest.approx(0.1, abs=1 / kept.numel())


def test_over_length_and_threads(sparse):
    assert list(sweep.length(sparse, (8, 24), **HOW).length) == [8] * 3 + [24] * 3
    before = torch.get_num_threads()
    rows = sweep.threads(sparse, (2, 1), length=8, **HOW)
    assert list(rows.threads) == [2] * 3 + [1] * 3 and torch.get_num_threads() == before
    with pytest.raises(InputError, match="0 threads: at least 1"):
        sweep.threads(sparse, (0,), length=8, **HOW)
    with pytest.raises(InputError, match="no length to time"):
        sweep.length(sparse, (), **HOW)


def test_break_even():
    """Over the fastest dense run, in the runtime's own fastest type; without one it says which way."""
    rows = pd.DataFrame({"runtime": "fast", "density": [1.0, 0.2, 0.6], "speedup_over_best": [0.8, 4.0, 1.2]})
    rows = pd.concat([rows.assign(speedup=9.0), rows.assign(speedup=9.0, speedup_over_best=0.1)])
    assert sweep.break_even(rows, "fast") == (pytest.approx(0.8), "")
    above, below = rows[rows.density < 1], rows[rows.density == 1]
    assert sweep.break_even(above, "fast") == (None, "faster than the fastest dense run at every density timed")
    assert sweep.break_even(below, "fast") == (None, "not faster than the fastest dense run at the only density timed")


def test_the_kernel_is_timed_on_each_kind_of_matrix_beside_the_processor(sparse, monkeypatch):
    if reason := instruction_sets.unavailable_reason():
        pytest.skip(reason)
    monkeypatch.setattr(pace, "ROUNDS", 1000)
    rows = pace.by_matrix(sparse, batch=2, length=8, repeats=2, progress=False)
    assert set(rows.kind) == set(bert.LINEAR_LAYERS) and set(rows["dtype"]) >= {"fp32"}
    assert (rows.gflops > 0).all() and (rows.peak_gflops > 0).all() and rows.round_seconds.map(len).eq(2).all()
    weights = rows[rows["dtype"] == "fp32"].set_index("kind")
    kept = [blocks.mask(m.linear.weight, sparse.block) for m in bert.matrices(sparse.model) if m.kind == "query"]
    assert weights.density["query"] == pytest.approx(torch.stack(kept).float().mean().item())
    expected = 2e-9 * 16 * weights.density * weights.outputs * weights.inputs * len(bert.layers(sparse.model))
    assert np.allclose(weights.gflops * weights.median_seconds, expected)


@pytest.mark.parametrize("instructions", instruction_sets.available()[1:])
def test_the_peak_counts_what_the_inner_loop_does(instructions):
    one, four = (torch.ops.qalib.peak(instructions, rounds) for rounds in (1, 4))
    assert four == 4 * one > 0 and one % torch.get_num_threads() == 0
    numbers = 16 if "512" in instructions else 8 if "avx" in instructions else 4
    if "amx" in instructions:
        numbers = 16 * 16 // 2  # a row of tokens with all outputs of a tile, once a cycle
    started = time.perf_counter()
    done = torch.ops.qalib.peak(instructions, 1_000_000) / (time.perf_counter() - started) / torch.get_num_threads()
    step = instruction_sets.layout(instructions, (32, 32)).step
    assert done / numbers / step < 1.2e10, "more than two instructions a cycle: the compiler left some out"


def test_all_runtimes_are_those_of_the_device(packed_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(latency, "compare", lambda *_, names, **rest: asked.extend(names) or sys.exit(0))
    CliRunner().invoke(
        app, ["benchmark", "forward", "--model", str(packed_folder), "--runtimes", "all", "--device", "cpu"]
    )
    assert (
        asked == [name for name, kind in runtimes.REGISTRY.items() if "cpu" in kind.devices] != list(runtimes.REGISTRY)
    )


def test_a_sweep_of_given_values_in_milliseconds(packed_folder, monkeypatch):
    common = ["--model", str(packed_folder), "--runtimes", "compact", "--dtype", "fp32", "--device", "cpu"]
    monkeypatch.setattr(
        latency, "interleave", lambda passes, *_, **__: {p: timing.Timing((0.25,) * 99) for p in passes}
    )
    settings = [*common, "--batch", "1", "--length", "16"]
    found = CliRunner().invoke(app, ["benchmark", "sweep", "density", *settings, "--values", "0.5,1"]).output
    table = [line.split() for line in found.splitlines()[-5:]]
    assert table[0][:7] == ["density", "runtime", "dtype", "rounds", "median_ms", "spread_ms", "p99_ms"]
    assert [row[:7] for row in table[1::2]] == [[d, "dense", "fp32", "99", "250.0", "0.0", "-"] for d in ("0.5", "1.0")]
    assert "p99_ms (the 99th percentile, of 100 rounds or more)" in found
    monkeypatch.setattr(
        latency, "interleave", lambda passes, *_, **__: {p: timing.Timing((0.25,) * 100) for p in passes}
    )
    found = CliRunner().invoke(app, ["benchmark", "sweep", "length", *settings, "--values", "8,24"]).output
    table = [line.split() for line in found.splitlines()[-4:]]
    assert [row[0] for row in table] == ["8", "8", "24", "24"] and {row[6] for row in table} == {"250.0"}
    for wrong, message in {"length": "as 64,128,384", "density": "as 0.1,0.2"}.items():
        with pytest.raises(InputError, match=f"--values 0.5x: expected numbers separated by commas, {message}"):
            CliRunner().invoke(
                app, ["benchmark", "sweep", wrong, *settings, "--values", "0.5x"], catch_exceptions=False
            )


def test_a_percentile_wants_a_hundred_rounds():
    assert timing.Timing((1.0,) * 99).p99 is None
    assert timing.Timing(tuple(range(101))).p99 == 99
