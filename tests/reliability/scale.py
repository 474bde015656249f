"""Scale: processes that share the work, question sets that grow, several models in one run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import torch
from transformers import BertConfig, BertForQuestionAnswering

from qalib.model import checkpoint
from qalib.qa import answering
from qalib.utils.files import read_json
from reliability import determinism, speeds, trial
from reliability.trial import Section

TRAIN = speeds.SHARED / "squad" / "train-v1.1.json"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ACCELERATE = [sys.executable, *"-m accelerate.commands.launch --cpu --num_machines 1 --num_processes 2".split()]
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # Open MPI refuses root else
ENVIRONMENT = trial.ENVIRONMENT | AS_ROOT | {"OMP_NUM_THREADS": "1"}


def memory(few: int = 2500, all_of_train: bool = True) -> Section:
    """Peak memory of `qalib evaluate` over so many questions, over four times as many, and over all of train."""
    section = Section(
        "Memory of evaluating", "`qalib evaluate` of a small model, whose own memory is next to nothing, over "
        f"questions {speeds.SOURCE} and over all training questions; over these the bundled model in bf16, too.",
        ("model", "questions", "peak memory of the process, MB", "times the first", "seconds", "EM and F1, %"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        small = _small(place / "small")
        runs = [(small, speeds.question_file(place / f"{count}.json", count), bound) for count, bound in
                ((few, 1), (4 * few, 1.25))]  # fmt: skip
        if all_of_train and TRAIN.exists():
            runs += [(small, TRAIN, 1.5), ("bundled", TRAIN, None)]
        first = 0.0
        for model, data, bound in runs:
            peak = _peak(section, model, data, first)
            first = first or peak
            if bound:
                section.expect(peak <= bound * first, f"{data.name}: {peak:.0f} MB, {first:.0f} for {few:,} questions")
    section.notes.append(
        f"questions are cut into windows {answering.CHUNK:,} at a time; what grows are the texts of questions and "
        "answers; expected: at most a quarter more for four times the questions, half more for all of train"
    )
    if all_of_train and not TRAIN.exists():
        section.notes.append("all training questions: not run, there is no train-v1.1.json here")
    return section


def _small(folder: Path) -> Path:
    """Two random layers of width 32 with the bundled model's vocabulary: windows as long as a real model's."""
    tokenizer = checkpoint.load("bundled").tokenizer
    torch.manual_seed(trial.SEED)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=len(tokenizer), **sizes)
    BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _peak(section: Section, model: Path | str, data: Path, first: float) -> float:
    """A row with the largest resident memory of an evaluation, in MB; 0 if it broke."""
    began, dtype = time.perf_counter(), "bf16" if model == "bundled" else "fp32"
    given = ["--model", model, "--data", data, "--dtype", dtype, "--json"]
    process = trial.start("evaluate", *given, stderr=subprocess.DEVNULL)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not section.expect(process.returncode == 0, f"{data.name}: exit code {process.returncode}"):
        return 0.0
    peak, found = usage.ru_maxrss * 1024 / 1e6, json.loads(printed)
    section.row(Path(model).name, f"{found['total']:,}", f"{peak:.0f}", f"{peak / (first or peak):.2f}",
                f"{time.perf_counter() - began:.0f}", f"{found['exact_match']:.2f} and {found['f1']:.2f}")  # fmt: skip
    return peak


def shared(count: int = 101) -> Section:
    """The same evaluation by one process and by several, started in each way; and one of them killed."""
    section = Section(
        "Several processes, evaluating", f"`qalib evaluate` of a tiny model over {count} questions, which neither two "
        "nor three processes can share evenly, one thread each.",
        ("started as", "processes", "predictions that differ from one process's", "EM and F1"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        _, packed = trial.tiny(place)
        given = ["evaluate", "--model", packed, "--data", trial.asked(place / "asked.json", count), "--device", "cpu"]
        two_machines = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        two_machines += ["--rdzv-id", "qalib", "--rdzv-endpoint", f"localhost:{_port()}"]
        ways: dict[str, tuple[list[str], list, int]] = {
            "qalib evaluate": ([], [], 1),
            "qalib evaluate --processes 2": ([], ["--processes", 2], 1),
            "qalib evaluate --processes 3": ([], ["--processes", 3], 1),
            "torchrun --nnodes 2 (two launchers on one machine)": (two_machines, [], 2),
        } | {way: (launcher, [], 1) for way, launcher in _accelerate(section, place).items()}
        alone = {}
        for way, (launcher, more, launchers) in ways.items():
            out = place / f"{len(section.rows)}.json"
            command = [*given, *more, "--json", "--predictions", out]
            started = [_start(launcher, command) for _ in range(launchers)]
            ended = [trial.finish(process, 300) for process in started]
            if not section.expect(all(e.code == 0 for e in ended), f"{way}: {[e.err[-400:] for e in ended]}"):
                section.row(way, "", "", "broke")
                continue
            printed = json.loads("".join(e.out for e in ended))  # once, by the first process
            found = {"predictions": read_json(out), "scores": [printed["exact_match"], printed["f1"]]}
            alone = alone or found
            differing = sum(text != alone["predictions"][key] for key, text in found["predictions"].items())
            equal = found["scores"] == alone["scores"] and list(found["predictions"]) == list(alone["predictions"])
            section.row(way, printed["processes"], differing, "equal" if equal else "differ")
            section.expect(differing == 0 and equal, f"{way}: {differing} answers, {found['scores']}")
        _dying(section, [*given[:-4], "--data", trial.asked(place / "many.json", 20_000), "--device", "cpu"])
    return section


def accelerate(place: Path) -> list[str]:
    """How `accelerate launch` starts two processes on a CPU: through MPI. Empty if that is not there."""
    if not shutil.which("mpirun"):
        return []
    hosts = place / "hosts"
    hosts.write_text("localhost slots=2\n")
    return [*ACCELERATE, "--mpirun_hostfile", str(hosts)]


def _accelerate(section: Section, place: Path) -> dict[str, list[str]]:
    if launcher := accelerate(place):
        return {"accelerate launch --cpu, through mpirun": launcher}
    section.notes.append("accelerate launch: not run; on a CPU it starts several processes only through mpirun")
    return {}


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(launcher: list[str], arguments: list) -> subprocess.Popen:
    if not launcher:
        return trial.start(*arguments, env=ENVIRONMENT)
    command = [*launcher, "-m", "qalib", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _dying(section: Section, command: list) -> None:
    process = trial.start(*command, "--processes", 2, "--json")
    workers, deadline = [], time.monotonic() + 120
    while len(workers) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
    time.sleep(8)  # into the work
    if not section.expect(len(workers) == 2 and process.poll() is None, "no two processes to kill one of"):
        process.kill()
        return
    began = time.monotonic()
    workers[1].send_signal(signal.SIGKILL)
    try:
        ended = trial.finish(process, 120)
    except trial.Killed:
        ended = trial.Outcome("none: it hangs", "", "")
    said = (ended.err.strip().splitlines() or [""])[-1]
    section.row("--processes 2, one killed (-9)", 2, "none given", f"`{said}`")
    left = [worker.pid for worker in workers if worker.is_running()]
    good = ended.code == 2 and said.startswith("qalib: process ") and not ended.out and not left
    section.expect(good, f"one killed: code {ended.code}, {said}, still running: {left}")
    section.notes.append(f"the killed one was missed, and the other ended, {time.monotonic() - began:.1f} s later")


def training() -> Section:
    """The same pruning run by one process and by two."""
    section = Section(
        "Several processes, training", "`qalib prune` of a tiny model on 48 questions, 8 windows a step, in fp32: one "
        "process with batches of 8, two with batches of 4.",
        ("started as", "steps", "difference of the loss at step 10, before anything is cut", "density reached"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        place, logs = Path(name), []
        dense, _ = trial.tiny(place)
        given = ["prune", "--data", trial.asked(place / "48.json", 48), "--teacher", dense, "--block", "4x4",
                 "--epochs", 40, "--precision", "fp32", "--teacher-cache", place / "teachers"]  # fmt: skip
        two = [*TORCHRUN, "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{_port()}"]
        ways = {"qalib prune": [], "torchrun --nproc-per-node 2": two} | _accelerate(section, place)
        for number, (way, launcher) in enumerate(ways.items()):
            out, batch = place / f"out{number}", 4 if launcher else 8
            ended = trial.finish(_start(launcher, [*given, "--batch", batch, "--out", out]), 300)
            if not section.expect(ended.code == 0, f"{way}: {ended.err[-600:]}"):
                return section
            logs.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
            apart = abs(logs[0][0]["loss"] - logs[-1][0]["loss"])
            meta = read_json(out / "model_meta.json")
            section.row(way, meta["steps"], f"{apart:.1e}", f"{meta['density']:.4f}")
            section.expect(apart < 1e-4 and abs(meta["density"] - 0.317) < 0.005, f"{way}: {apart}, {meta['density']}")
    section.notes.append("not the same to the bit: two processes add gradients up in another order")
    return section


def several() -> Section:
    """Three models in one report, one of which is not there; killed after the first, and started again."""
    section = Section(
        "Several models in one report", "`qalib report` with three models, the second of which is no model, killed "
        "(-9) once the first report is there, and started again.",
        ("model", "in the table as", "report"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        _, packed = trial.tiny(place)
        other = shutil.copytree(packed, place / "other")
        models = [packed, place / "nowhere", other]
        one = determinism.command(place, place / "out")
        at = one.index("--model")
        command = [*one[:at], *(part for model in models for part in ("--model", model)), *one[at + 2 :]]
        first, manifest = (
            trial.start(*command, stderr=subprocess.DEVNULL),
            place / "out" / packed.name / "manifest.json",
        )
        deadline = time.monotonic() + 600
        while not manifest.exists() and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        first.kill()
        first.communicate()
        made = manifest.stat().st_mtime_ns if manifest.exists() else None
        ended = trial.finish(trial.start(*command), 900)
        as_expected = ended.code == 1 and "1 of 3 models failed" in ended.err
        if not section.expect(as_expected, f"{ended.code}: {ended.err[-600:]}"):
            return section
        table = pd.read_csv(place / "out" / "tables" / "comparison.csv").set_index("model")
        for model in map(str, models):
            row = table.loc[model]
            folder = place / "out" / str(row.report)
            kept = "kept from before the kill" if folder == manifest.parent else "made after it"
            whole = (folder / "index.html").exists()
            said = f"F1 {row.f1:.2f} %" if whole else f"failed: {row.note}".replace(str(place), "")
            section.row(Path(model).name, said, kept if whole else "none")
        section.expect(made is not None and manifest.stat().st_mtime_ns == made, "the first report was made again")
        pictures = (place / "out" / "figures" / "comparison.svg", place / "out" / "index.html")
        section.expect(table.report.notna().sum() == 2 and all(p.exists() for p in pictures), "table, figure or page")
    return section
