"""What commands print reaches a terminal of any encoding."""

import io
import json
import os
import subprocess
import sys

import pytest
from builders import squad_file

from qalib.cli import commands
from qalib.qa import squad

ENCODINGS = ("cp1252", "ascii", "latin-1", "utf-8")
CONTEXT = "The poet is Ji\u0159\xed Kol\xe1\u0159 \U0001f600."
QUESTION = squad.Question("\u0142", "t", "Who is \u0142?", CONTEXT, ("Ji\u0159\xed Kol\xe1\u0159",), (12,))


@pytest.fixture(params=ENCODINGS)
def terminal(request, monkeypatch):
    """A function that runs a command with both streams in one encoding; returns exit code, output and errors."""

    def run(*arguments):
        streams = {}
        for name in ("stdout", "stderr"):
            streams[name] = io.TextIOWrapper(io.BytesIO(), encoding=request.param, errors="strict", write_through=True)
            monkeypatch.setattr(sys, name, streams[name])
        monkeypatch.setattr(sys, "argv", ["qalib", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        return ended.value.code, *(stream.buffer.getvalue().decode(request.param) for stream in streams.values())

    run.encoding = request.param
    return run


def test_answers(terminal, packed_folder):
    command = ["answer", "Who is the poet?", CONTEXT, "--model", packed_folder, "--top-k", "20"]
    code, output, _ = terminal(*command)
    escaped = CONTEXT.encode(terminal.encoding, "backslashreplace").decode(terminal.encoding)
    lines = [line.split("  (score ")[0] for line in output.splitlines()]
    assert code == 0 and len(lines) > 3 and all(line in escaped for line in lines)
    assert any(name in line for line in lines for name in ("Ji\u0159", "Ji\\u0159"))
    code, output, _ = terminal(*command, "--json")
    answers = json.loads(output)["answers"]
    assert code == 0 and all(answer["answer"] == CONTEXT[answer["start"] : answer["end"]] for answer in answers)
    assert output.isascii() == (terminal.encoding != "utf-8")


def test_a_whole_evaluation(terminal, packed_folder, tmp_path):
    path = squad_file(tmp_path / "\u0141\xf3d\u017a.json", [QUESTION])
    code, output, errors = terminal("evaluate", "--model", packed_folder, "--data", path)
    assert code == 0 and "exact match" in output and "in the model" in output and "answering" in errors
    name = path.name.encode(terminal.encoding, "backslashreplace").decode(terminal.encoding)
    assert any(line.startswith("data ") and name in line for line in output.splitlines())


def test_errors_and_help(terminal, tmp_path):
    path = tmp_path / "\u0141\xf3d\u017a.json"
    code, output, errors = terminal("score", path, path)
    name = path.name.encode(terminal.encoding, "backslashreplace").decode(terminal.encoding)
    assert code == 2 and output == "" and f"{name}: no such file" in errors
    assert terminal("evaluate", "--help")[0] == 0
    code, _, errors = terminal("evaluate", "--\u0142\xf3")
    assert code == 2 and "No such option" in errors


@pytest.mark.parametrize("name", ["cp1252", "ascii:strict"])
def test_a_process_with_that_encoding(packed_folder, tmp_path, name):
    path = squad_file(tmp_path / "\u0141\xf3d\u017a.json", [QUESTION])
    command = [sys.executable, "-m", "qalib", "evaluate", "--model", packed_folder, "--data", path, "--json"]
    environment = os.environ | {"PYTHONIOENCODING": name, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0 and json.loads(done.stdout)["data"] == path.name
