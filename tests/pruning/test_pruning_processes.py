"""Runs in other processes: killed and resumed, and shared by two."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import filelock
import pytest
import torch
from conftest import ROOT
from threads import gloo_threads

from qalib.pruning import run
from qalib.pruning.config import PruningConfig
from qalib.pruning.run_folder import RunFolder
from qalib.utils import distributed
from qalib.utils.errors import InputError
from qalib.utils.files import read_json


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def start(settings, *launcher, **variables):
    spelt = settings | {"block": "x".join(map(str, settings["block"]))}
    names = {name: "eval" if name == "eval_data" else name.replace("_", "-") for name in settings}
    options = [f"--{names[name]}={value}" for name, value in spelt.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, *launcher, "-m", "qalib", "prune", *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE if variables else None, text=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(settings):
    port = free_port()
    return start(settings, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}")


def test_killed_and_resumed(pruning_settings, tmp_path):
    settings = pruning_settings | {"density": 0.3, "epochs": 40, "save_minutes": 0.01}
    config, folder = PruningConfig(**settings), RunFolder(tmp_path / "out.run")
    process = start(settings)
    deadline = time.monotonic() + 60
    while folder.last_checkpoint() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = torch.load(folder.last_checkpoint() / "controller.pt", weights_only=True)
    assert 0 < state["progress"] < 1 and state["seconds"] > 0
    (folder.path / "checkpoint-9999").mkdir()  # as if killed while writing it
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="already holds a run"):
        run.prune(config)
    with pytest.raises(InputError, match="the run has density 0.3, not 0.4"):
        run.prune(PruningConfig(**settings | {"density": 0.4}, resume=True))
    resumed = PruningConfig(**settings, resume=True)
    with filelock.FileLock(f"{folder.path}.lock"), pytest.raises(InputError, match="another run is at work there"):
        run.prune(resumed)
    out = run.prune(resumed)
    meta = read_json(out / "model_meta.json")
    assert meta["steps"] == 480
    assert meta["density"] == pytest.approx(0.3, abs=0.005)
    assert [line["step"] for line in log(out)] == list(range(1, 481))
    assert meta["training_seconds"] > state["seconds"]


def test_two_processes_take_the_same_steps_and_score_together(pruning_settings, tmp_path):
    settings = pruning_settings | {"density": 0.3, "epochs": 1, "warmup": 0.4, "eval_data": pruning_settings["data"]}
    alone = log(run.prune(PruningConfig(**settings)))
    process = start_two(settings | {"out": tmp_path / "two", "batch": 2})
    try:
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
    together = log(tmp_path / "two")
    assert len(together) == len(alone) == 13
    for name in ("windows", "loss", "answer_loss", "distillation_loss", "weight_lr"):
        assert [line[name] for line in together[:6]] == pytest.approx([line[name] for line in alone[:6]], abs=2e-5)
    assert together[-2]["density"] == pytest.approx(0.3, abs=0.005)
    assert together[-1].keys() >= {"exact_match", "f1"}
    scores = read_json(tmp_path / "two" / "model_meta.json")["scores"]
    assert scores["teacher"] == read_json(tmp_path / "out" / "model_meta.json")["scores"]["teacher"]


def prune_and_leave(config):
    run.prune(config, progress=False)
    assert not gloo_threads()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are listed in /proc")
def test_no_thread_of_the_process_group_outlives_a_run(pruning_settings):
    """Such a thread aborts the process if it needs Python while the interpreter is being finalised."""
    distributed.run(2, prune_and_leave, PruningConfig(**pruning_settings | {"batch": 2, "epochs": 0.2}))


def test_machines_that_share_no_folder_are_told_so(pruning_settings, tmp_path):
    """Each process with a work folder of its own, as on two machines."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        start(pruning_settings | {"work": tmp_path / f"work-{rank}"}, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(2)
    ]
    try:
        for process in processes:
            assert "not seen by every process; with several machines, --work must" in process.communicate(timeout=60)[1]
            assert process.returncode == 2
    finally:
        for process in processes:
            process.kill()
