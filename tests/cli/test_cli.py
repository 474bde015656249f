"""The commands through their real entry points."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer
from conftest import ROOT
from reliability import trial
from typer.testing import CliRunner

from qalib import runtimes
from qalib.cli import commands, console
from qalib.utils.files import read_json, write_json


def qalib(*arguments, cwd=None):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    command = [sys.executable, "-c", "from qalib.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)


def as_json(*arguments):
    done = qalib(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_evaluate_writes_what_score_reads(packed_folder, asked_file, tmp_path):
    predictions = tmp_path / "predictions.json"
    result = as_json("evaluate", "--model", packed_folder, "--data", asked_file, "--predictions", predictions)
    assert (result["total"], result["missing"], result["runtime"]) == (8, 0, runtimes.best("cpu"))
    score = as_json("score", asked_file, predictions)
    assert score == {key: result[key] for key in ("exact_match", "f1", "total", "missing", "unknown")}
    write_json(predictions, {"q0": read_json(predictions)["q0"], "other": "x"})
    score = as_json("score", asked_file, predictions)
    assert (score["missing"], score["unknown"]) == (7, 1)


@pytest.fixture
def run_here(monkeypatch, capsys):
    """A function that runs a command in this process and gives its exit code, its output and its errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["qalib", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def here(run_here):
    """A function that runs a command in this process and gives its exit code, its JSON and its errors."""

    def run(*arguments):
        code, output, errors = run_here(*arguments)
        return code, json.loads(output) if output else None, errors

    return run


@pytest.fixture
def here_as_text(run_here):
    """A function that runs a command in this process, without an error, and gives what it prints."""

    def run(*arguments):
        code, output, errors = run_here(*arguments)
        assert code == 0, errors
        return output

    return run


def test_evaluate_and_score_agree_on_questions_without_an_answer(here, packed_folder, unanswerable_file, tmp_path):
    predictions = tmp_path / "predictions.json"
    odds = tmp_path / "odds.json"
    given = ["--model", packed_folder, "--data", unanswerable_file, "--null-score-diff-threshold", "-0.5", "--json"]
    code, result, error = here("evaluate", *given, "--predictions", predictions, "--null-odds", odds)
    assert code == 0, error
    assert (result["HasAns_total"], result["NoAns_total"], result["null_score_diff_threshold"]) == (8, 4, -0.5)
    assert result["no_answer_training"].startswith("not stated; ")
    expected = {key: diff > -0.5 for key, diff in read_json(odds).items()}
    assert {key: text == "" for key, text in read_json(predictions).items()} == expected
    scored = ["score", unanswerable_file, predictions, "--json"]
    _, score, _ = here(*scored, "--na-prob-file", odds)
    assert score == {key: result[key] for key in score} and len(score) == 15 and score["best_f1"] is not None
    _, score, _ = here(*scored, "--na-prob-file", odds, "--na-prob-thresh", "-1e9")
    assert (score["HasAns_exact"], score["NoAns_exact"], score["best_f1"]) == (0, 100, result["best_f1"])
    assert here(*scored)[1]["best_exact"] is None


def test_no_answer_options_are_for_v2(here, packed_folder, asked_file, unanswerable_file, tmp_path):
    texts = write_json(tmp_path / "p.json", {"q0": "x"})
    other = write_json(tmp_path / "n.json", {"other": 0.5})
    v1 = ["evaluate", "--model", packed_folder, "--data", asked_file]
    v2 = ["evaluate", "--model", packed_folder, "--data", unanswerable_file]
    odds = tmp_path / "odds.json"
    for arguments, message in [
        ([*v1, "--null-odds", odds], "eight.json: is SQuAD v1.1, where every question has an answer"),
        ([*v1, "--null-score-diff-threshold", "0"], "eight.json: is SQuAD v1.1, where every question has an answer"),
        ([*v2, "--null-score-diff-threshold", "nan"], "--null-score-diff-threshold nan: expected a finite number"),
        (["score", asked_file, texts, "--na-prob-file", texts], "the no-answer score for 'q0' is str"),
        (["score", asked_file, texts, "--na-prob-thresh", "0"], "--na-prob-thresh 0.0: needs --na-prob-file"),
        (["score", asked_file, texts, "--na-prob-file", other], "eight.json is of SQuAD v1.1"),
        (["score", unanswerable_file, texts, "--na-prob-file", other], "n.json: no no-answer probability for 'q0'"),
    ]:
        code, printed, error = here(*arguments)
        assert code == 2 and printed is None and message in error, error
    assert not odds.exists()


def test_answer_sparsity_benchmark_export(packed_folder, tmp_path):
    answers = as_json("answer", "What is it?", "It is a red cat.", "--model", packed_folder, "--top-k", "2")["answers"]
    assert len(answers) == 2 and all("It is a red cat."[a["start"] : a["end"]] == a["answer"] for a in answers)
    result = as_json("sparsity", "--model", packed_folder, "--out", tmp_path / "s")
    assert result["heads"] == 8 and result["heads_called_removed_per_layer"] == [1, 1]
    assert {p.name for p in (tmp_path / "s" / "figures").iterdir()} >= {"heads.svg", "patterns.svg"}
    kept = tmp_path / "speed"
    few = ("--dtype", "fp32", "--batch", 1, "--length", 8, "--repeats", 2)
    result = as_json("benchmark", "forward", "--model", packed_folder, *few, "--out", kept)
    assert read_json(kept / "benchmark.json")["rows"] == result["rows"] and (kept / "figures" / "speedup.svg").exists()
    assert [row["runtime"] for row in result["rows"]] == ["dense", "compact", "block-sparse"]
    assert "CPU" in result["machine"]
    done = qalib("export", "--model", packed_folder, "--out", tmp_path / "plain")
    assert done.returncode == 0 and (tmp_path / "plain" / "model.safetensors").exists()
    done = qalib("average", packed_folder, tmp_path / "plain", "--out", tmp_path / "mean")
    assert done.returncode == 0 and read_json(tmp_path / "mean" / "model_meta.json")["average_of"]


def test_whole_evaluations_are_timed_and_scored(packed_folder, asked_file, tmp_path):
    how = ("--model", packed_folder, "--data", asked_file, "--runtimes", "dense,block-sparse,openvino")
    result = as_json("benchmark", "evaluation", *how, "--dtype", "fp32", "--repeats", 2, "--out", tmp_path)
    assert read_json(tmp_path / "evaluation.json")["rows"] == result["rows"]
    usual, dense, sparse = result["rows"][:3]
    assert [row["way"] for row in (usual, dense, sparse)] == [
        "usual way",
        "dense fp32, by length",
        "block-sparse fp32, by length",
    ]
    scores = as_json("evaluate", "--model", packed_folder, "--data", asked_file)
    for row in (usual, dense, sparse):
        assert (row["exact_match"], row["f1"]) == (scores["exact_match"], scores["f1"])
        assert len(row["round_seconds"]) == 2 and row["resident_bytes"] > 0
    assert usual["padded_tokens"] > sparse["padded_tokens"]
    assert ("openvino fp32, by length" in result["not_run"]) == (len(result["rows"]) == 3)  # where it is not installed
    few = ("--model", packed_folder, "--data", asked_file, "--runtimes", "dense,onnxruntime-int8", "--repeats", 1)
    result = as_json("benchmark", "evaluation", *few, "--dtype", "bf16")
    assert (
        result["not_run"] == {"onnxruntime-int8 bf16, by length": "is for fp32, not for bf16"}
        and len(result["rows"]) == 2
    )


def test_a_table_of_speeds_has_f1_beside_them(packed_folder, asked_file, tmp_path):
    few = ("--batch", 1, "--length", 8, "--repeats", 1, "--runtimes", "dense,block-sparse-int8,compact")
    how = ("--model", packed_folder, "--dtype", "fp32", "--score", asked_file, "--questions", 2)
    result = as_json("benchmark", *how, *few, "--out", tmp_path)  # as it was spelled before it had subcommands
    assert read_json(tmp_path / "benchmark.json")["rows"] == result["rows"]
    assert result["scored"]["model"] == Path(packed_folder).name
    assert result["scored"]["data"].endswith("the first 2 of 8 questions")
    for row in result["rows"]:
        runtime = ("--runtime", row["runtime"], "--dtype", "fp32")
        scores = as_json("evaluate", "--model", packed_folder, "--data", asked_file, "--questions", 2, *runtime)
        assert (row["exact_match"], row["f1"]) == (scores["exact_match"], scores["f1"])
    done = qalib("benchmark", *how, *few)
    assert "f1 (%): " in done.stdout and "it is now qalib benchmark forward --model" in done.stderr


def test_audit(packed_folder, asked_file, tmp_path):
    claims = as_json("audit", "--model", packed_folder, "--data", asked_file, "--out", tmp_path / "a")["claims"]
    assert {row["claim"]: row["verdict"] for row in claims}["linear density"] == "differs"
    assert (tmp_path / "a" / "tables" / "audit.csv").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "--data", "nowhere.json"], "nowhere.json: no such file"),
        (["evaluate", "--data", "PACKED/config.json"], "config.json: 'data' is missing"),
        (["evaluate", "--model", "./nowhere"], "./nowhere: no such folder"),
        (["evaluate", "--model", "no/such"], "no/such: no such folder, and the hub cannot be reached"),
        (
            ["evaluate", "--runtime", "fast", "--model", "PACKED"],
            "no runtime 'fast'; there are dense, dense-compiled, compact, block-sparse, block-sparse-int8",
        ),
        (["evaluate", "--device", "cuda", "--model", "PACKED"], "torch finds no CUDA GPU"),
        (["score", "sample", "PACKED/config.json"], "config.json: the prediction for "),
        (["score", "sample", "PACKED/model.packed.safetensors"], "model.packed.safetensors: not "),
        (["export", "--model", "PACKED", "--out", "PACKED"], "exists already and is not an empty folder"),
        (["report", "--model", "PACKED", "-p", "epochs=3", "--out", "r"], "no notebook has a parameter 'epochs'"),
        (["report", "-p", "epochs"], "-p epochs: expected NAME=VALUE"),
        (["answer", "Who?", "", "--model", "PACKED"], "empty"),
        (["benchmark", "forward", "--model", "PACKED", "--repeats", "0"], "0 repeats"),
        (["benchmark", "evaluation", "--model", "PACKED", "--data", "sample", "--repeats", "0"], "0 repeats"),
        (
            ["benchmark", "evaluation", "--model", "PACKED", "--data", "sample", "--runtimes", "fast"],
            "no runtime 'fast'",
        ),
        (["benchmark", "forward", "--model", "PACKED", "--questions", "3"], "--questions 3: requires --score"),
        (["benchmark", "forward", "--model", "PACKED", "--score", "nowhere.json"], "nowhere.json: no such file"),
        (["audit", "--card", "PACKED/config.json", "--model", "PACKED"], "config.json: not a card of this family"),
        (["twin", "t", "--density", "0.9"], "density 0.9: must be between 0 and "),
        (["twin", "t", "--masks", "PACKED/config.json"], "config.json: expected an object with block_size"),
        (["prune", "--data", "sample", "--out", "o", "--teacher", "PACKED", "--block", "8"], "--block 8: expected HEI"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(packed_folder, tmp_path, monkeypatch, capsys, arguments, message):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys, "argv", ["qalib", *(a.replace("PACKED", str(packed_folder)) for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    output = capsys.readouterr()
    assert ended.value.code == 2 and output.out == ""
    lines = [line for line in output.err.splitlines() if line.startswith("qalib: ")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in output.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_came_up(tmp_path, monkeypatch, capsys):
    command = ["score", "sample", str(tmp_path / "nowhere.json")]
    for given in ([], ["--debug"]):
        monkeypatch.setattr(sys, "argv", ["qalib", *given, *command])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        error = capsys.readouterr().err
        assert ended.value.code == 2 and ("Traceback" in error) == bool(given)
        assert error.splitlines()[-1] == f"qalib: {tmp_path / 'nowhere.json'}: no such file"


def test_what_was_not_foreseen_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr(commands, "app", lambda: [][0])
    monkeypatch.setattr(sys, "argv", ["qalib"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "qalib: IndexError: list index out of range (unexpected: `qalib --debug ...` shows where)\n"
    )


def test_predictions_of_another_data_set(asked_file, tmp_path):
    write_json(tmp_path / "p.json", {"other": "x"})
    done = qalib("score", asked_file, tmp_path / "p.json")
    assert done.returncode == 2 and "none of the 1 predictions has the id of any of the 8 questions" in done.stderr


def test_help_names_every_command():
    done = qalib("--help")
    for name in "report answer evaluate score sparsity benchmark export prune average twin audit".split():
        assert f" {name} " in done.stdout


def commands_of(group, path=()):
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        yield from commands_of(command, (*path, name)) if inner else [((*path, name), command)]


COMMANDS = dict(commands_of(typer.main.get_command(commands.app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_every_text_and_default(path, monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 1000)
    printed = CliRunner().invoke(commands.app, [*path, "--help"]).stdout
    for option in COMMANDS[path].params:
        assert not option.help or option.help in printed
        assert not isinstance(option.show_default, str) or f"[default: ({option.show_default})]" in printed
        assert "[" not in (option.help or "")  # rich would read it as markup


def test_help_names_every_runtime():
    names = re.sub(r"on a GPU|where installed|and|[,;]", " ", console.RUNTIME_NAMES).split()
    assert sorted(names) == sorted(runtimes.REGISTRY)
    for command in (["evaluate"], ["benchmark", "forward"]):
        assert "deepsparse-int8 where installed" in " ".join(qalib(*command, "--help").stdout.replace("│", " ").split())


def lines_of(text):
    """What is printed beside each name."""
    pairs = (line.strip().split("  ", 1) for line in text.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def test_results_for_people_have_units_and_separators(here_as_text, packed_folder, asked_file):
    lines = lines_of(here_as_text("sparsity"))
    assert lines["parameters left"] == "15,277,295 of 22,566,146 (67.70 %)" and lines["as stored"] == "15.9 MB"
    assert lines["in all"] == "4.76 billion dense, 2.02 billion compact, 1.63 billion sparse"
    assert "revision" not in lines and not [value for value in lines.values() if re.search(r"\d{5}|None|[{}]", value)]
    lines = lines_of(here_as_text("evaluate", "--model", packed_folder, "--data", asked_file))
    assert (
        re.fullmatch(r"\d+\.\d\d %", lines["F1"]) and lines["questions"] == "8" and lines["in the model"].endswith(" s")
    )


def test_the_audit_says_where_a_speed_was_measured(here_as_text, packed_folder, asked_file):
    printed = here_as_text("audit", "--model", packed_folder, "--data", asked_file, "--device", "cpu")
    assert re.search(r"^needs a GPU +speedup: stated 1\.\d+x, here [\d.]+x on CPU$", printed, re.MULTILINE), printed


def test_a_run_ends_with_what_it_made_and_what_to_try_next(here_as_text, pruning_settings, tmp_path):
    settings = pruning_settings | {"block": "4x4", "epochs": 0.25}
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    printed = here_as_text("prune", *options)
    lines, out = lines_of(printed), pruning_settings["out"]
    assert re.fullmatch(r"[\d,]+ of [\d,]+ \([\d.]+ %\) of \d+x\d+", lines["blocks kept"]), printed
    assert lines["encoder weights left"].endswith(" %") and lines["time"].endswith(" s") and "F1" not in lines
    assert printed.splitlines()[-1] == f"try next: qalib evaluate --model {out} --data {pruning_settings['data']}"


def test_help_and_readme_say_what_machines_that_prune_together_need():
    told = " ".join(qalib("prune", "--help").stdout.replace("│", " ").split())
    assert "with several machines, one that all of them see" in told
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "machines that prune together need a work folder that all of them can see (`--work`)" in readme


def test_the_first_answer_comes_soon():
    """No part of the package for reports, notebooks or training is imported, and the model takes little to load."""
    code = (
        "import json, sys, time, transformers.models.bert.modeling_bert; from qalib.cli import app;"
        "started = time.process_time();"
        "app(['answer', 'Who wrote for piano?', 'Chopin wrote for piano.'], standalone_mode=False);"
        "print(json.dumps([time.process_time() - started, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    answer, last = done.stdout.splitlines()
    seconds, modules = json.loads(last)
    assert answer.startswith("Chopin") and seconds < 2  # of the processor; 0.3 on a Zen 4
    heavy = {"altair", "datasets", "IPython", "matplotlib", "nbformat", "pandas", "papermill", "pyarrow"}
    assert not heavy & set(modules)


def test_env_and_version_print_what_a_bug_report_needs():
    assert qalib("--version").stdout == f"qalib {version('qalib')}\n"
    report = as_json("env")
    assert report["versions"]["torch"] == torch.__version__ and report["runtimes"]["dense"] == "available"
    assert report["machine"]["CPU"] and report["kernel"]
    text = qalib("env").stdout
    assert all(name in text for name in report["runtimes"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("unable to mmap 435000000 bytes from file </m/model.bin>: Cannot allocate memory (12)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_is_an_ordinary_error(error):
    message, code = console.describe_error(error)
    assert message.startswith("out of memory: ") and "unexpected" not in message and code == 2


def test_no_control_character_reaches_the_terminal(packed_folder, capsys, monkeypatch):
    """A context may hold a terminal's sequences: clear the screen, set the title (C0 and C1)."""
    context = "It is \x1b[2J\x1b]0;title\x07 \x9b2J red\x7f."
    for more in ([], ["--json"]):
        argv = ["qalib", "answer", "What is it?", context, "--model", str(packed_folder), "--top-k", "9", *more]
        monkeypatch.setattr(sys, "argv", argv)
        with suppress(SystemExit):
            commands.main()
        printed = capsys.readouterr().out
        assert "\\x" in printed or "\\u00" in printed
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)
    assert any("\x1b" in answer["answer"] for answer in json.loads(printed)["answers"])
    console.print_groups({"": {"model": "a\x1b[31mb"}})
    assert capsys.readouterr().out == "model  a\\x1b[31mb\n"


def test_what_cannot_be_written_is_said_before_any_work(tmp_path, packed_folder, asked_file):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    for command in (
        ["evaluate", "--model", tmp_path / "no-model", "--predictions", out],
        ["evaluate", "--model", tmp_path / "no-model", "--data", asked_file, "--null-odds", out],
        ["sparsity", "--model", tmp_path / "no-model", "--out", out],
        ["export", "--model", tmp_path / "no-model", "--out", out],
        ["twin", out, "--published", "no such"],
        ["average", tmp_path / "no-model", "--out", out],
        ["audit", "--model", tmp_path / "no-model", "--out", out],
        ["benchmark", "forward", "--model", tmp_path / "no-model", "--out", out],
        ["benchmark", "evaluation", "--data", "no-file", "--out", out],
        ["prune", "--teacher", packed_folder, "--data", "no-file", "--out", out, "--work", tmp_path / "work"],
    ):
        ended = trial.call(*command)
        expected = f"qalib: {out}: cannot be written; {tmp_path / 'file'} must be a folder that this user may write to"
        assert (ended.code, ended.err.strip()) == (2, expected)


def test_what_to_score_is_read_before_anything_is_timed(packed_folder, monkeypatch):
    monkeypatch.setattr("qalib.benchmark.latency.compare", lambda *_, **__: pytest.fail("timed"))
    ended = trial.call("benchmark", "forward", "--model", packed_folder, "--score", "nowhere.json")
    assert ended.code == 2 and "nowhere.json: no such file" in ended.err
    ended = trial.call("benchmark", "forward", "--model", packed_folder, "--questions", 3)
    assert ended.code == 2 and "requires --score" in ended.err


def test_a_disk_that_is_full_costs_no_score(packed_folder, asked_file, tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("qalib.utils.files.write_json", full)
    command = ["evaluate", "--model", packed_folder, "--data", asked_file, "--predictions", tmp_path / "p.json"]
    ended = trial.call(*command)
    assert ended.code == 2 and "exact match" in ended.out.lower()
    assert ended.err.strip().endswith(f"qalib: {tmp_path / 'p.json'}: No space left on device")


def test_tables_and_progress_have_no_escape_sequences(capsys):
    from qalib.cli import benchmark_results
    from qalib.pruning import progress as bar
    from qalib.report import progress

    hostile = "\x1b[2Jmodel\x9b1m\n"
    benchmark_results._print_lines({"data": hostile})
    benchmark_results._print_table(pd.DataFrame({"remark": [hostile], "ms": [1.5]}))
    progress.say(hostile)
    with bar.Progress() as shown:
        shown.note(hostile)
    output = capsys.readouterr()
    assert "\x1b[2J" not in output.out + output.err and "\x9b" not in output.out + output.err
    assert output.out.count(r"\x1b[2Jmodel\x9b1m\n") == 2 and output.err.count(r"\x1b[2Jmodel\x9b1m\n") == 2
