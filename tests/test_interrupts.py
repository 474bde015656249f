"""Ctrl-C and SIGTERM: every command ends in the same way, with nothing half-written."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import ROOT
from reliability import determinism, trial

from qalib.cli import commands, interrupts


def interrupted(command, number, marker, folder):
    """Start a command, send it a signal once the marker is in its standard error; its code and its last line."""
    process = trial.start(*command, text=False, bufsize=0, cwd=folder, start_new_session=True)
    text = b""
    while marker not in text and (more := process.stderr.read(4096)):
        text += more
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    text += process.communicate(timeout=120)[1]
    assert not psutil.wait_procs(started, timeout=30)[1]
    return process.returncode, text.decode().replace("\r", "\n").strip().splitlines()[-1]


def test_processes_that_share_an_evaluation(tmp_path, packed_folder):
    data = trial.asked(tmp_path / "many.json", 4000)
    command = ["evaluate", "--model", packed_folder, "--data", data, "--processes", 2, "--predictions", "answers.json"]
    expected = "qalib: interrupted; nothing is half-written, and the same command starts again"
    assert interrupted(command, signal.SIGINT, b"answering", tmp_path) == (130, expected)
    assert os.listdir(tmp_path) == ["many.json"]


def test_a_run_of_pruning(tmp_path, dense_folder):
    data = trial.asked(tmp_path / "48.json", 48)
    command = ["prune", "--data", data, "--teacher", dense_folder, "--out", "pruned", "--block", "4x4",
               "--epochs", 4000, "--save-minutes", 0.001, "--teacher-cache", tmp_path / "teachers"]  # fmt: skip
    expected = "qalib: interrupted; nothing is half-written, and the same command with --resume goes on from the last "
    assert interrupted(command, signal.SIGINT, b"training in", tmp_path) == (130, f"{expected}checkpoint")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".") or name == "pruned"]


def test_a_report_whose_notebook_is_running(tmp_path):
    command = determinism.command(tmp_path, tmp_path / "report")
    code, last = interrupted(command, signal.SIGTERM, b"[1/7]", tmp_path)
    assert code == 143 and last.endswith("and the same command goes on after the notebooks that are done")
    assert not (tmp_path / "report").exists()


LOST = """
import os, signal, time
from qalib.cli import interrupts

class Deleted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

with interrupts.raised():
    Deleted()
    time.sleep(60)
"""


def test_a_signal_that_python_drops_is_sent_again():
    ended = subprocess.run([sys.executable, "-c", LOST], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (143, "")


def test_how_to_go_on_is_said_for_each_command():
    assert interrupts.notice("prune").endswith("the same command with --resume goes on from the last checkpoint")
    assert interrupts.notice("sparsity").endswith("nothing is half-written, and the same command starts again")


def test_an_error_that_an_interruption_became_is_one(monkeypatch, capsys):
    """A library's C++ code, interrupted while it imports, raises an ImportError."""

    def app():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except interrupts.Interrupted:
            raise ImportError("numpy._core.multiarray failed to import") from None

    monkeypatch.setattr(commands, "app", app)
    monkeypatch.setattr(sys, "argv", ["qalib", "prune", "--out", "x"])
    with pytest.raises(SystemExit, match="130"):
        commands.main()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capsys.readouterr().err == f"qalib: {interrupts.notice('prune')}\n"
