import io
import sys
import time

import nbformat
import pytest

from qalib.report.progress import Progress


@pytest.fixture
def notebooks(tmp_path):
    for name, seconds in {"01_a": 10, "02_b": 20, "03_c": 30}.items():
        node = nbformat.v4.new_notebook(metadata={"qalib": {"seconds": seconds}})
        nbformat.write(node, tmp_path / f"{name}.ipynb")
    return sorted(tmp_path.glob("*.ipynb"))


def test_what_is_done_says_how_long_the_rest_will_take(notebooks):
    progress = Progress(notebooks)
    assert progress.expected("02_b") == 20 and progress.left("01_a") == 60
    progress.done("01_a", 30.0)  # three times as slow as where the notebooks were timed
    assert progress.expected("02_b") == 60 and progress.left("02_b") == 150


def test_a_notebook_of_unknown_length(notebooks):
    nbformat.write(nbformat.v4.new_notebook(), notebooks[1])
    progress = Progress(notebooks)
    assert progress.expected("02_b") is None and progress.left("01_a") is None and progress.left("03_c") == 30


def test_in_a_pipe_a_line_a_notebook(notebooks, capsys):
    progress = Progress(notebooks)
    with progress.running("02_b"):
        pass
    progress.done("02_b", 21.4)
    said = capsys.readouterr().err.splitlines()
    assert said == ["[2/3] 02_b (about 20 s; 50 s to the end of the report)", "[2/3] 02_b: 21 s"]


def test_in_a_terminal_a_bar_that_moves_by_itself(notebooks, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(notebooks).running("01_a"):
        time.sleep(1.3)
    drawn = [line for line in terminal.getvalue().split("\r") if "01_a" in line]
    assert len({line for line in drawn}) >= 2 and "of about 10 s" in drawn[-1] and "then 50 s more" in drawn[-1]
