"""Which type is the faster one: by a timing that is stored, and never one with wrong results."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from qalib import runtimes
from qalib.benchmark import evaluation_time
from qalib.qa import evaluation
from qalib.runtimes import dtypes, timings
from qalib.runtimes.cpu import instruction_sets
from qalib.utils import distributed, machine
from qalib.utils.errors import InputError
from qalib.utils.files import read_json

WORK = ["dense", "compact", "openvino", "block-sparse", "block-sparse-int8", "training"]


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(("bf16", "fastest", "timed"), [(0.5, "bf16", 1), (2.0, "fp32", 1), (None, "fp32", 0)])
def test_auto_is_what_the_timer_says(speeds, work, bf16, fastest, timed):
    calls = speeds(bf16)
    assert [dtypes.choose(wanted, work) for wanted in ("auto", "fp32", "bf16")] == [fastest, "fp32", "bf16"]
    assert dtypes.by_speed(work)[-1] == fastest and len(dtypes.by_speed(work)) == 1 + timed
    assert dtypes.bf16_speed(work) == (bf16 and 1 / bf16) and len(calls) == timed
    with pytest.raises(InputError, match="no type 'fp16'; there are auto, fp32 and bf16"):
        dtypes.choose("fp16", work)


@pytest.mark.skipif("avx512_bf16" not in instruction_sets.available(), reason="the kernel has no bf16 here")
@pytest.mark.parametrize(
    ("cap", "value", "emulated"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", {"dense": True, "training": True, "block-sparse": False}),
        ("QALIB_INSTRUCTIONS", "avx512", {"dense": False, "training": False, "block-sparse": True}),
        ("QALIB_INSTRUCTIONS", "avx512_bf16", {"dense": False, "training": False, "block-sparse": False}),
    ],
)
def test_a_cap_counts_for_what_it_caps(monkeypatch, types_file, cap, value, emulated):
    monkeypatch.setenv(cap, value)
    assert {work: runtimes.is_emulated("bf16", work) for work in emulated} == emulated
    monkeypatch.setattr(timings, "shortest_seconds", lambda *_: {"fp32": 1.0, "bf16": 0.5})
    for work, is_emulated in emulated.items():
        assert dtypes.fastest(work) == ("fp32" if is_emulated else "bf16")
        assert ("no instructions" in dtypes.remark("bf16", work)) == is_emulated


def test_a_remark_names_the_slower_type(speeds):
    speeds(0.5)
    assert dtypes.remark("bf16", "dense") == "bf16: 2.00 times as fast as fp32 here (dense layer)"
    assert dtypes.remark("fp32", "dense").endswith("here (dense layer); fp32 is the slower type")
    speeds(1.6)
    slower = "bf16: 0.62 times as fast as fp32 here (block-sparse layer); bf16 is the slower type"
    assert dtypes.remark("bf16", "block-sparse") == slower and dtypes.remark("fp32", "dense").endswith("(dense layer)")
    speeds(None)
    assert dtypes.remark("bf16", "dense") == "bf16: not timed, as there are no instructions for it here"


def test_a_timing_is_stored_for_all_that_it_depends_on(speeds, types_file, monkeypatch):
    calls = speeds(0.5)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    dtypes.fastest("dense"), dtypes.fastest("compact"), dtypes.fastest("training")
    dtypes.measured.cache_clear()  # as in another process
    dtypes.fastest("dense"), dtypes.fastest("training")
    assert len(calls) == 2 and len(read_json(types_file)) == 2
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    dtypes.fastest("dense")
    monkeypatch.setattr(torch, "__version__", "9.9")
    dtypes.fastest("dense")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    dtypes.fastest("dense")
    assert len(calls) == 5
    key = list(read_json(types_file))[-1]
    for part in (str(machine.specs()["CPU"]), "torch 9.9", "7 threads", "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16", "dense"):
        assert part in key


DAMAGED = ["", "{", "[1]", "\x00\xff", *({"fp32": 1.0} | {"bf16": bad} for bad in ("fast", -1.0, 0.0, True, None))]


@pytest.mark.parametrize("value", [*DAMAGED, {"fp32": 1.0}, {}, None, 3, "[" * 10_000])
def test_a_damaged_file_is_timed_anew_and_mended(speeds, types_file, value):
    calls = speeds(0.5)
    dtypes.fastest("dense")
    whole = read_json(types_file)
    types_file.write_text(value if isinstance(value, str) else json.dumps(dict.fromkeys(whole, value)))
    dtypes.measured.cache_clear()
    assert dtypes.fastest("dense") == "bf16" and len(calls) == 2 and read_json(types_file) == whole


@pytest.mark.parametrize("is_file", [True, False])
def test_a_file_that_cannot_be_written_is_no_error(speeds, tmp_path, monkeypatch, is_file):
    """The folder is a file, or the file a folder: no user can read or write either."""
    (tmp_path / "taken").write_text("") if is_file else (tmp_path / "taken" / "types.json").mkdir(parents=True)
    monkeypatch.setattr(dtypes, "TABLE", tmp_path / "taken" / "types.json")
    calls = speeds(0.5)
    for _ in range(2):
        assert dtypes.fastest("dense") == dtypes.fastest("dense") == "bf16"
        dtypes.measured.cache_clear()
    assert len(calls) == 2 and not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_two_processes_store_their_timings_in_one_file(tmp_path):
    code = (
        "import sys; from pathlib import Path; from qalib.runtimes import timings\n"
        "for number in range(50): timings.cached(Path(sys.argv[1]), f'{sys.argv[2]} {number}', lambda: number)"
    )
    table = tmp_path / "t.json"
    both = [subprocess.Popen([sys.executable, "-c", code, str(table), name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    stored = read_json(table)  # each may overwrite the other's last entry, but the one that ends last stores its own
    assert 49 in (stored.get("a 49"), stored.get("b 49"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize("wrong", [float("nan"), 0.5])
@pytest.mark.parametrize("work", WORK)
def test_a_type_with_wrong_results_is_never_chosen(speeds, monkeypatch, work, wrong):
    calls, layer = speeds(0.1), dtypes._layer

    def damaged(kind, dtype, *rest):
        run = layer(kind, dtype, *rest)
        return (lambda: [result * wrong for result in run()]) if dtype == "bf16" else run

    dtypes.fastest(work)
    assert len(calls) == 1  # what was stored where the results were right does not help
    monkeypatch.setattr(dtypes, "_layer", damaged)
    dtypes.is_right.cache_clear()
    with pytest.warns(UserWarning, match="bf16 is not chosen for .*: results are off by"):
        assert dtypes.fastest(work) == "fp32"
    dtypes.is_right.cache_clear()


def test_a_type_that_fails_is_never_chosen(speeds, monkeypatch):
    def fails(*_):
        raise RuntimeError("could not create a primitive")

    speeds(0.1)
    monkeypatch.setattr(dtypes, "_dense", fails)
    dtypes.is_right.cache_clear()
    with pytest.warns(UserWarning, match="could not create a primitive"):
        assert dtypes.fastest("dense") == "fp32" and "wrong" in dtypes.remark("fp32", "dense")
    dtypes.is_right.cache_clear()


@pytest.mark.skipif(machine.is_emulated("bf16"), reason="bf16 is emulated")
@pytest.mark.parametrize("work", ["dense", "training"])
def test_fewer_threads_than_torch_asks_for(work):
    """Without qalib torch's bf16 products are NaN then, without a warning."""
    code = (
        "import torch; torch.set_num_threads(2); from qalib.runtimes import dtypes, timings\n"
        f"timings.shortest_seconds = lambda *_: {{'fp32': 1.0, 'bf16': 0.1}}; print(dtypes.fastest({work!r}))\n"
        "x = torch.ones(64, 64, dtype=torch.bfloat16); print((x @ x == 64).all().item())"
    )
    environment = os.environ | {"OMP_THREAD_LIMIT": "1", "XDG_CACHE_HOME": "/nowhere"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.split() in (["fp32", "False"], ["bf16", "True"]), ran.stderr


@pytest.mark.parametrize("work", ["dense", "training", "block-sparse", "block-sparse-int8"])
def test_the_timed_layers_are_right(work):
    if work == "block-sparse-int8" and instruction_sets.int8_unavailable_reason():
        pytest.skip("no int8 instructions")
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert all(dtypes.is_right(work, dtype, "cpu", "a test") for dtype in dtypes.TYPES)
    times = timings.shortest_seconds(
        {dtype: dtypes._layer(work, dtype, "cpu", *dtypes.CHECKED) for dtype in dtypes.TYPES}, "cpu"
    )
    assert times.keys() == set(dtypes.TYPES) and all(0 < seconds < 5 for seconds in times.values()), times
    assert torch.get_num_threads() == 1 and torch.rand(1) == drawn  # no random number of the caller's is used up


def test_a_clock_that_stands_still_is_not_used(monkeypatch):
    monkeypatch.setattr(timings.time, "thread_time", lambda: 1.0)
    assert 0 < timings.shortest_seconds({"a nap": lambda: time.sleep(0.01)})["a nap"] < 5


def test_a_runtime_of_one_type_is_not_timed(speeds, monkeypatch):
    calls = speeds(0.5)
    monkeypatch.setattr(dtypes, "unavailable_reason", lambda *_: None)
    assert runtimes.choose_dtype("auto", "onnxruntime-int8", "cpu") == ("fp32", "the only type of onnxruntime-int8")
    assert not calls and runtimes.choose_dtype("auto", "compact", "cpu")[0] == "bf16"


@pytest.mark.parametrize(("bf16", "dtype"), [(0.5, "bf16"), (2.0, "fp32")])
def test_evaluation_and_benchmark_take_the_faster_type(speeds, packed_folder, sparse, asked, asked_file, bf16, dtype):
    speeds(bf16)
    about, _ = evaluation.load_and_evaluate(str(packed_folder), str(asked_file), "compact")
    assert about["dtype"] == dtype
    assert about["dtype_remark"] == f"bf16: {1 / bf16:.2f} times as fast as fp32 here (dense layer)"
    about, _ = evaluation.load_and_evaluate(str(packed_folder), str(asked_file), "compact", "fp32")
    assert about["dtype"] == "fp32" and about["dtype_remark"].endswith("slower type") == (dtype == "bf16")
    rows = evaluation_time(sparse, asked, repeats=1, progress=False)
    assert set(rows["dtype"]) == {"fp32", "bf16"}  # both, as either may be the fastest dense one


def of_first(wanted):
    rank = machine.os.environ.get("RANK")
    if wanted == "raise" and rank == "0":
        raise InputError("refused")
    return rank


def each(wanted):
    PartialState(cpu=True)
    return gather_object([distributed.of_main_process(lambda: of_first(wanted))])


def test_all_processes_take_the_type_of_the_first():
    assert distributed.run(2, each, "rank") == ["0", "0"]
    with pytest.raises(InputError, match="refused"):
        distributed.run(2, each, "raise")


def test_a_damaged_table_counts_as_empty(tmp_path):
    table = tmp_path / "table.json"
    table.write_text('{"kept": 1, "other"')
    assert timings.cached(table, "kept", lambda: 2) == 2 and read_json(table) == {"kept": 2}
    assert timings.cached(table, "kept", lambda: 3) == 2
    assert timings.cached(table, "kept", lambda: 3, lambda value: value == 3) == 3 and read_json(table) == {"kept": 3}
