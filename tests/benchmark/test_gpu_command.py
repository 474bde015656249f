"""The command behind `make gpu`: parts as processes with limits, and the page of what they found."""

import sys

import pytest

from qalib.benchmark.gpu import __main__ as command
from qalib.benchmark.gpu import page, settings
from qalib.benchmark.gpu.settings import Rows, Settings
from qalib.utils.errors import InputError


def test_a_part_has_its_limit_and_its_exit_code_is_told():
    code = [sys.executable, "-c"]
    said = command.outcome([*code, "import time; time.sleep(600)"], 1)
    assert said == "stopped at its limit of 1 s; the rows until then are kept"
    assert command.outcome([*code, "raise SystemExit(3)"], 60).startswith("ended with exit code 3")
    assert command.outcome([*code, ""], 60) == "done"


def test_the_command_runs_the_parts_and_writes_a_page(tmp_path, monkeypatch):
    ran = []

    def outcome(words, limit):
        ran.append((words[words.index("--part") + 1], limit))
        part = ran[-1][0]
        stand = Settings(tmp_path / "rehearsal", "cpu")
        line = {"runtime": "compact-graph", "dtype": "bf16", "batch": 1, "length": 384, "speedup": 3.0}
        for row in [line, line | {"runtime": "dense-compiled", "speedup": 2.0}] if part == "twin" else []:
            Rows(stand, part).add(row)
        return "done"

    monkeypatch.setattr(command, "outcome", outcome)
    line = [str(tmp_path), "--device", "cpu", "--masks", str(tmp_path / "none"), "--teacher", str(tmp_path / "no")]
    assert command.main([*line, "--parts", "checks,twin,real,training", "--minutes", "1"]) == 1
    assert ran == [("checks", 300), ("twin", 420)]
    text = (tmp_path / "rehearsal" / "README.md").read_text()
    assert "**Rehearsal on a CPU: no figure here says anything of a GPU.**" in text
    assert "| real | not run: " in text and "no such file; name masks_0.20.json with --masks or QALIB_SHARED" in text
    assert "| training | not run: " in text and "not there; name it with --teacher or QALIB_SHARED" in text
    with pytest.raises(InputError, match="no part speed; there are checks, kernels, twin, real, evaluation, card, tr"):
        command.main([str(tmp_path), "--device", "cpu", "--parts", "speed"])


def test_a_part_is_given_what_was_asked_for(tmp_path, monkeypatch):
    """The command that starts a part, read by itself again."""
    seen, started = [], []
    monkeypatch.setattr(command, "outcome", lambda words, limit: started.append((words, limit)) or "done")
    asked = Settings(tmp_path, "cpu", masks=tmp_path / "m", data="d", train_data=str(tmp_path), teacher=str(tmp_path))
    asked = settings.replace(asked, minutes=2.5)
    command.run_all(asked, ["training"], command.limits(asked))
    ((words, limit),) = started
    assert words[:3] == [sys.executable, "-m", "qalib.benchmark.gpu"] and limit == 60 * 3 * 5.5
    monkeypatch.setitem(command.PARTS, "training", seen.append)
    assert command.main(words[3:]) == 0 and seen == [asked]


def test_every_part_has_a_limit_and_stands_in_the_description():
    for part in command.PARTS:
        assert command.limits(Settings("out"))[part] >= 240
        assert f"\n{part} " in command.gpu.__doc__


def cells(lines):
    found = [[cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]] for line in lines if line]
    return [dict(zip(found[0], line, strict=True)) for line in found[2:]]


def test_over_compiled_dense_is_a_ratio_of_speedups():
    about = {"dtype": "bf16", "batch": 1, "length": 384}
    table = cells(page.end_to_end([
        about | {"runtime": "dense-compiled", "speedup": 2.0},
        about | {"runtime": "compact-graph", "speedup": 3.0, "median_seconds": 0.001234, "peak_bytes": 5e6},
        about | {"runtime": "block-sparse", "error": "RuntimeError: a | b"},
    ]))  # fmt: skip
    assert [line["over compiled dense"] for line in table] == ["1", "1.5", ""]
    assert table[1]["ms"] == "1.23" and table[1]["peak MB"] == "5" and table[2]["remark"] == "RuntimeError: a / b"


def test_the_fastest_panels_of_a_product():
    about = {"kind": "twin", "product": "FFN in", "tokens": 384, "kept": 0.25}
    times = {"dense": 3.0, "compact": 2.0, "panels a": 1.0, "panels b": 0.5}
    found = [about | {"way": way, "milliseconds": time} for way, time in times.items()]
    lines = page.kernels([*found, about | {"way": "panels c", "error": "no"}])
    assert "| twin | FFN in | 384 | 0.25 | 3 | 2 | 0.5 | panels b | 1 of 5, as no |" in lines


def test_the_page_of_all_parts():
    norm = {"kind": "norm", "product": "residual, norm of 768", "tokens": 384}
    measured = [
        {"kind": "ceiling", "way": "product", "value": 712.345, "unit": "TFLOP/s"},
        norm | {"way": "torch", "milliseconds": 0.006},
        norm | {"way": "kernel 1x4", "milliseconds": 0.003},
        norm | {"way": "kernel 4x4", "error": "no"},
    ]
    found = {
        "kernels": measured,
        "evaluation": [{"runtime": "compact", "dtype": "bf16", "f1": 79.0912, "exact_match": 70.0}],
        "card": [{"runtime": "dense", "dtype": "fp32", "windows": 10784, "seconds": 20.5, "speedup": 1.0}],
        "training": [{"run": "movement", "windows": 81920, "windows_per_second": 612.34, "f1": 71.25}],
    }
    text = page.page("Card", {}, [], {part: {"rows": rows} for part, rows in found.items()}, None)
    for line in (
        "| product | 712.3 | TFLOP/s |  |",
        "| residual, norm of 768 | 384 | 6 | 3 | kernel 1x4 | 1 of 3, as no |",
        "| compact | bf16 |  | 70 | 79.09 |  |  |  |",
        "| dense | fp32 | 10784 | 20.5 |  | 1 |  |  |  |",
        "| movement |  |  |  | 81920 |  | 612.3 |  | 71.25 |  |  |",
    ):
        assert line in text.splitlines(), line
    assert "Nothing was measured." in text and "Rehearsal" not in text  # no products
