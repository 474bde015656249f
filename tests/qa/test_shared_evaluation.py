"""Several processes that share an evaluation: the same answers as one, and no waiting for one that died."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate import PartialState
from accelerate.utils import gather_object
from builders import squad_file
from conftest import ROOT
from reliability import scale
from threads import gloo_threads

from qalib.qa import evaluation
from qalib.utils import distributed
from qalib.utils.errors import InputError


def die_in_the_second():
    if os.environ["RANK"] == "1":
        os._exit(3)
    return PartialState(cpu=True).process_index


@pytest.fixture
def question_file(asked, tmp_path):
    """Seven questions, which two processes cannot share evenly, as a SQuAD file."""
    return squad_file(tmp_path / "seven.json", asked.questions[:7])


def test_two_processes_answer_as_one(packed_folder, question_file):
    arguments = (str(packed_folder), str(question_file), None, "fp32", "cpu")
    _, alone = distributed.run(1, evaluation.load_and_evaluate, *arguments)
    about, shared = distributed.run(2, evaluation.load_and_evaluate, *arguments)
    assert about["data"].startswith("seven.json") and (alone.answers.processes, shared.answers.processes) == (1, 2)
    assert shared.answers.texts == alone.answers.texts and list(shared.answers.texts) == list(alone.answers.texts)
    assert shared.score == alone.score and shared.answers.windows == alone.answers.windows
    assert shared.rows.equals(alone.rows)


def join_and_leave(arguments):
    """Whether there are threads of gloo within the process group and, as there should not, after an evaluation."""
    with distributed.joined(cpu=True):
        within = bool(gloo_threads())
    evaluation.load_and_evaluate(*arguments)
    return within, bool(gloo_threads())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are listed in /proc")
def test_no_thread_of_the_process_group_outlives_an_evaluation(packed_folder, question_file):
    """Such a thread aborts the process if it needs Python while the interpreter is being finalised."""
    arguments = (str(packed_folder), str(question_file), None, "fp32", "cpu")
    assert distributed.run(2, join_and_leave, arguments) == (True, False)


def join_again(times):
    for _ in range(times):
        with distributed.joined(cpu=True):
            ranks = gather_object([os.environ["RANK"]])
        if os.environ["RANK"] == "0":
            time.sleep(0.1)  # so that the other is first, and finds the keys of the group before
    return ranks


def test_processes_that_left_meet_again():
    assert distributed.run(2, join_again, 4) == ["0", "1"]


def test_a_process_that_dies_ends_all(capfd):
    with pytest.raises(InputError, match="process 1 of 2 ended with exit code 3"):
        distributed.run(2, die_in_the_second)
    assert "Traceback" not in capfd.readouterr().err


def work_on():
    os.write(1, f"{os.getpid()}\n".encode())  # in one piece: two processes write
    time.sleep(120)


def test_the_others_end_with_the_first_process():
    code = (
        "from qalib.utils import distributed; from test_shared_evaluation import work_on; distributed.run(2, work_on)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}"}
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    members = [psutil.Process(int(leader.stdout.readline())) for _ in range(2)]
    leader.kill()
    leader.wait()
    leader.stdout.close()
    assert psutil.wait_procs(members, timeout=30)[1] == []


def test_bad_input_is_one_error(packed_folder):
    with pytest.raises(InputError, match="nowhere.json: no such file"):
        distributed.run(2, evaluation.load_and_evaluate, str(packed_folder), "nowhere.json", None, "fp32", "cpu")


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_started_from_outside(packed_folder, question_file, tmp_path, launcher):
    start = [*scale.TORCHRUN, "--standalone", "--nproc-per-node", "2"]
    if launcher == "accelerate" and not (start := scale.accelerate(tmp_path)):
        pytest.skip("no mpirun, by which accelerate starts several processes on a CPU")
    command = [*start, "-m", "qalib", "evaluate", "--json", "--device", "cpu"]
    files = ["--model", packed_folder, "--data", question_file, "--predictions", tmp_path / "found.json"]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, env=scale.ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    _, alone = evaluation.load_and_evaluate(str(packed_folder), str(question_file), device="cpu")
    printed = json.loads(done.stdout)  # once, by the first process
    assert printed["f1"] == alone.score.f1 and printed["processes"] == 2
    assert json.loads((tmp_path / "found.json").read_text()) == alone.answers.texts
