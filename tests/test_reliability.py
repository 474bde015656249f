"""The trials of `make reliability` in short: see `reliability/`.

Others have their short form beside what they try: two runs that are the same and two at once in test_report.py, several
processes in test_shared_evaluation.py and test_pruning_processes.py, several models in test_comparison.py.
"""

from collections import Counter
from dataclasses import asdict

import pytest
from reliability import attacks, determinism, faults, inputs, page, scale, spans, speeds, trial, untrusted

FEW = {"SQuAD file": 60, "SQuAD file, answered": 2, "prediction file": 30, "config.json": 80, "weights": 50,
       "tokenizer": 10, "model card": 3, "notebook": 5}  # fmt: skip


def held(section: trial.Section) -> list[tuple]:
    assert not section.failed, "\n".join(section.failed)
    return section.rows


def test_bad_input_is_refused_in_one_line():
    rows = held(inputs.fuzz(FEW))
    assert {row[0]: row[1] for row in rows} == FEW and all(row[2] + row[3] == row[1] for row in rows)


def test_bad_input_through_a_process():
    assert held(inputs.processes(1))[0][1:3] == (1, 1)


def test_a_fault_would_be_found(tmp_path):
    place = inputs.Place(tmp_path)
    silent = trial.Outcome(2, "", "Traceback\n")
    _, _, wrong = inputs.one(place, "SQuAD file", 0, lambda *command: silent)
    assert wrong == ["1 lines", "the file is not named", "a traceback"]


def test_answers_are_where_they_say():
    held(spans.places(25))


def test_scores_are_as_defined():
    ((pairs, equal, overlapping, *differences),) = held(spans.scores(10_000))
    assert pairs == 10_000 and equal > 1000 and overlapping > 1000 and differences == [0, 0]


def test_killed():
    ((_, _, kills, states, _),) = held(faults.killed({"qalib evaluate --predictions": 2}))
    assert kills == 2 and "a part" not in states


def test_full_and_read_only_disks():
    rows = held(faults.disks(("evaluate",)))
    if "skipped" in rows[0][-1]:
        pytest.skip(rows[0][-1])
    assert [row[1:4] for row in rows] == [("full", 2, "untouched"), ("read-only", 2, "untouched")]


def test_one_notebook_alone_fails_clearly():
    assert "run the notebooks that measure" in held(determinism.twice(["05_model_card"]))[0][-1]


def test_hostile_texts_are_text():
    assert held(untrusted.card_page())


def test_nothing_that_a_model_names_is_run():
    held(untrusted.code())


def test_interrupted_exports_leave_nothing_or_all():
    rows = held(attacks.interrupted({"qalib export --format packed": 3, "qalib sparsity --out": 3}))
    assert [row[2] for row in rows] == [3, 3] and not any("a part" in row[3] for row in rows)


def test_links_and_pipes():
    assert Counter(row[1] for row in held(attacks.places())) == {2: 6, 0: 3}


def test_hostile_tokenizers():
    assert Counter(row[1] for row in held(attacks.tokenizers())) == {2: 6, 0: 6}


def test_long_texts():
    assert held(attacks.long(30, 5_000, 40))[2][1] == 40


def test_active_html_would_be_found(tmp_path):
    (tmp_path / "a.html").write_text(f"<p>{untrusted.HOSTILE}</p>")
    assert len(untrusted.look(tmp_path / "a.html")[0]) == 2


def test_the_parts_beside_the_model_are_timed():
    rows = speeds.parts(20, 1, twin_questions=0).rows  # shares of so few questions say nothing
    assert [row[0] for row in rows][2:] == ["reading SQuAD", "windows", "decoding (best spans)", "metric",
                                            "a row a question, scored"]  # fmt: skip


def test_loading_takes_little_more_than_the_model():
    assert [row[0] for row in held(speeds.loading(("packed fp16", "2021")))] == ["packed fp16", "2021"]


def test_memory_does_not_grow_with_the_questions():
    few, many = held(scale.memory(150, all_of_train=False))
    assert (few[1], many[1]) == ("150", "600") and float(many[3]) <= 1.25


def test_a_trial_that_breaks_is_said_on_the_page():
    section = trial.Section("T", "a <b>", ("c",), [("x|y",)], ["n"], ["it <fell>"])
    text = page.written({"t": {"section": asdict(section), "seconds": 1.0, "day": "today", "commit": "c"}})
    assert "1 expectations failed" in text and "it &lt;fell&gt;" in text and "| x&#124;y |" in text
