"""`make gpu`, rehearsed on the CPU with a tiny model: every part writes its rows, and says that it was a rehearsal."""

import dataclasses
import sys

import pytest

from qalib import runtimes
from qalib.benchmark import gpu, gpu_page
from qalib.utils.files import read_json


@pytest.fixture
def settings(packed_folder, asked_file, tmp_path):
    models = tuple((part, str(packed_folder)) for part in ("twin", "real", "evaluation"))
    return gpu.Settings(
        tmp_path / "out", "cpu", tmp_path / "absent.json", str(asked_file), ((1, 32),), (8,),
        (("compact", "fp32"), ("compact-graph", "fp32"), ("block-sparse-triton", "fp32"), ("torch-bsr", "fp32")),
        ("dense", "compact-graph"), 2, models,
    )  # fmt: skip


def rows(settings, part):
    found = read_json(settings.out / f"{part}.json")
    assert found["rehearsal"] == "rehearsal on a CPU: no figure here says anything of a GPU" and found["machine"]["CPU"]
    return found["rows"]


def test_runtimes_end_to_end(settings):
    with gpu.opened(settings):
        gpu.PARTS["twin"](settings)
    assert "cuda" in runtimes.REGISTRY["compact-graph"].devices  # closed again
    found = {row["runtime"]: row for row in rows(settings, "twin")}
    assert list(found) == ["dense", "compact", "compact-graph", "block-sparse-triton", "torch-bsr"]
    assert found["compact-graph"]["speedup"] > 0 and found["compact-graph"]["logit_difference"] < 1e-3
    assert found["compact-graph"]["kernel"] == "dense" and found["compact-graph"]["peak_bytes"] is None
    assert "blocks of (8, 8) are not for Triton" in found["block-sparse-triton"]["error"]
    assert found["torch-bsr"]["note"] == "is for cuda, not for cpu"


def test_products_of_a_layer(settings):
    gpu.kernels(dataclasses.replace(settings, models=settings.models[:1]))  # without the masks of 0.20
    found = rows(settings, "kernels")
    assert {row["kind"] for row in found} == {"twin"} and len({row["product"] for row in found}) == 4
    timed = {row["way"]: row.get("milliseconds") for row in found if row["product"] == "FFN in"}
    assert timed["dense"] > 0 and timed["compact"] > 0
    panels = [row for row in found if row["way"].startswith("panels")]
    assert panels and all("blocks of (8, 8) are not for Triton" in row["error"] for row in panels)


def test_whole_evaluation(settings):
    with gpu.opened(settings):
        gpu.evaluate(settings)
    dense, ours = rows(settings, "evaluation")
    assert dense["f1"] == ours["f1"] and ours["seconds"] > 0 and ours["device"] == "cpu"


def test_rows_are_kept_one_by_one(settings):
    kept = gpu.Rows(settings, "kernels")
    for number in range(3):
        kept.add({"way": number})
        assert [row["way"] for row in rows(settings, "kernels")] == list(range(number + 1))


def test_a_part_has_its_limit_and_its_exit_code_is_told():
    code = [sys.executable, "-c"]
    said = gpu._ended([*code, "import time; time.sleep(600)"], 1)
    assert said == "stopped at its limit of 1 s; the rows until then are kept"
    assert gpu._ended([*code, "raise SystemExit(3)"], 60).startswith("ended with exit code 3")
    assert gpu._ended([*code, ""], 60) == "done"


def test_the_command_runs_the_parts_and_writes_a_page(tmp_path, monkeypatch, capsys):
    ran = []

    def ended(command, limit):
        ran.append((command[command.index("--part") + 1], limit))
        part = ran[-1][0]
        stand = gpu.Settings(tmp_path / "rehearsal", "cpu")
        line = {"runtime": "compact-graph", "dtype": "bf16", "batch": 1, "length": 384, "speedup": 3.0}
        for row in [line, line | {"runtime": "dense-compiled", "speedup": 2.0}] if part == "twin" else []:
            gpu.Rows(stand, part).add(row)
        return "done"

    monkeypatch.setattr(gpu, "_ended", ended)
    line = [str(tmp_path), "--device", "cpu", "--parts", "checks,twin,real", "--masks", str(tmp_path / "none")]
    assert gpu.main(line) == 1  # `real` has no masks
    assert ran == [("checks", 300), ("twin", 420)]
    page = (tmp_path / "rehearsal" / "README.md").read_text()
    assert "**Rehearsal on a CPU: no figure here says anything of a GPU.**" in page
    assert "| real | not run: " in page and "no such file; name masks_0.20.json with --masks or QALIB_SHARED" in page
    with pytest.raises(gpu.InputError, match="no part speed; there are checks, kernels, twin, real, evaluation"):
        gpu.main([str(tmp_path), "--device", "cpu", "--parts", "speed"])


def test_over_compiled_dense_is_a_ratio_of_speedups():
    about = {"dtype": "bf16", "batch": 1, "length": 384}
    lines = gpu_page.end_to_end([
        about | {"runtime": "dense-compiled", "speedup": 2.0},
        about | {"runtime": "compact-graph", "speedup": 3.0, "median_seconds": 0.001234, "peak_bytes": 5e6},
        about | {"runtime": "block-sparse", "error": "RuntimeError: a | b"},
    ])  # fmt: skip
    cells = [[cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]] for line in lines if line]
    table = [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]
    assert [line["over compiled dense"] for line in table] == ["1", "1.5", ""]
    assert table[1]["ms"] == "1.23" and table[1]["peak MB"] == "5" and table[2]["remark"] == "RuntimeError: a / b"


def test_the_fastest_panels_of_a_product():
    about = {"kind": "twin", "product": "FFN in", "tokens": 384, "kept": 0.25}
    times = {"dense": 3.0, "compact": 2.0, "panels a": 1.0, "panels b": 0.5}
    found = [about | {"way": way, "milliseconds": time} for way, time in times.items()]
    lines = gpu_page.kernels([*found, about | {"way": "panels c", "error": "no"}])
    assert "| twin | FFN in | 384 | 0.25 | 3 | 2 | 0.5 | panels b | 1 of 5, as no |" in lines
