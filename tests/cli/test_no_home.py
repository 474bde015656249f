"""A user without a home directory, as in many containers: commands work, or say to set HOME."""

import json
import os
import subprocess
import sys

import pytest

# The entry point, without HOME and without an entry for the user in the system's table of users.
HOMELESS = """
import os, pwd, sys
def unknown(number):
    raise KeyError(number)
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
from qalib.cli import main
main()
"""


def qalib(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    command = [sys.executable, "-c", HOMELESS, *map(str, arguments)]
    environment |= {"HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


def test_evaluation_needs_none(packed_folder, asked_file, tmp_path):
    done = qalib(tmp_path, "evaluate", "--model", packed_folder, "--data", asked_file, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"] == 8 and not (tmp_path / "~").exists()


@pytest.mark.parametrize("command", [["report"], ["sparsity", "--model", "org/model"]])
def test_what_needs_one_says_so(tmp_path, command):
    done = qalib(tmp_path, *command)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("qalib: ") and "there is no home directory; set HOME to a folder that can be written" in last
    assert not (tmp_path / "~").exists() and not (tmp_path / "reports").exists()
