"""The bar of a pruning run: every step moves it, and it says what the run waits for."""

import re

from qalib.pruning import progress, run
from qalib.pruning.config import PruningConfig


def test_the_bar_moves_every_step(pruning_settings, monkeypatch, capsys):
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    run.prune(PruningConfig(**pruning_settings | {"log_steps": 10, "eval_data": pruning_settings["data"]}))
    drawn = re.split(r"[\r\n]+", capsys.readouterr().err)
    for what in ("loading teacher and student", "cutting 48 questions into windows", "step 1 of 24, the teacher's",
                 "scoring the checkpoint of step 24", "scoring the model", "saving"):  # fmt: skip
        assert any(line.startswith(what) for line in drawn), what
    moved = [re.match(r"step (\d+) of 24: +(\d+)%.*<([\d:]+).*windows/s=[\d.]+, loss=", line) for line in drawn]
    places = {int(found[1]): int(found[2]) for found in moved if found}
    assert list(places) == list(range(1, 25))
    assert [places[1], places[12], places[24]] == [4, 50, 100]


def test_it_is_drawn_a_few_times_a_second_at_most(capsys):
    with progress.Progress() as bar:
        bar.begin(0.0)
        for step in range(1000):
            bar.doing(f"step {step}")
            bar.step(f"step {step}", (step + 1) / 1000, 8)
    assert 2 <= capsys.readouterr().err.count("\r") < 20
