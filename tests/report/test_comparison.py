"""Several models in one report: one table, one figure, and no failure that stops the others."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_report import notebook

from qalib.report import comparison, draft, execution, front
from qalib.report.results import Results
from qalib.utils import machine
from qalib.utils.errors import InputError, ReportError
from qalib.utils.files import read_json

VALUES = (31.7, 5, 1e6, None, 50.0, 2.5, 1.5, 0.5)
UNKNOWN = ("f1", "block_sparse_speedup", "compact_speedup")  # of a structural twin, and on a GPU


@pytest.fixture
def compare(packed_folder, asked_file, tmp_path, monkeypatch):
    """Compares copies of the tiny model with reports of one notebook, which is not run but stood in for."""
    path = notebook(tmp_path / "01.ipynb", parameters="model = ''\nout = ''")

    def execute(source, output, parameters, timeout):
        with open(tmp_path / "count", "a") as file:
            file.write(Path(parameters["model"]).name[0])
        if parameters["model"].endswith("broken"):
            raise ReportError(f"{source.name}, cell 2: ValueError: of no use")
        kept = Results(parameters["out"], "01")
        twin = parameters["model"].endswith("twin")
        for name, value in zip(comparison.NUMBERS, VALUES, strict=True):
            kept.number(name, None if twin and name in UNKNOWN else value, "1", "d", "not measured here")
        output.parent.mkdir(exist_ok=True)
        shutil.copy(source, output)
        return 0.0

    monkeypatch.setattr(execution, "execute", execute)
    monkeypatch.setattr(front, "index", lambda folder, manifest: "")
    for name in ("one", "broken", "two", "twin"):
        shutil.copytree(packed_folder, tmp_path / name)

    def run(*names):
        models = [str(tmp_path / name) for name in names]
        return comparison.run(models, str(asked_file), tmp_path / "out", device="cpu", notebooks=[path])

    return run


def test_failures_do_not_stop_the_others(compare, tmp_path):
    with pytest.raises(ReportError, match="2 of 4 models failed: .*nowhere.*; 01.ipynb, cell 2: ValueError: of no use"):
        compare("one", "nowhere", "broken", "two")
    out = tmp_path / "out"
    assert (out / "one" / "manifest.json").exists() and (out / "two" / "manifest.json").exists()
    table = pd.read_csv(out / "tables" / "comparison.csv")
    assert table.report.tolist()[:2] == ["one", "two"] and table.report[2:].isna().all()
    assert table.f1.tolist()[:2] == [50.0, 50.0] and table.exact_match.isna().all()
    assert table.note[0] == "not measured here" and "ValueError: of no use" in table.note[3]
    page = (out / "index.html").read_text()
    assert page.count("<b>failed</b>: ") == 2 and "ValueError: of no use" in page and "2 of 4 models, 2 failed" in page
    assert 'href="one/index.html"' in page and "31.70" in page
    assert (out / "figures" / "comparison.svg").exists() and len(read_json(out / "manifest.json")["models"]) == 4


def test_a_twin_without_scores_may_come_first(compare, tmp_path):
    compare("twin", "one")
    table = pd.read_csv(tmp_path / "out" / "tables" / "comparison.csv")
    assert table.report.tolist() == ["twin", "one"] and table.f1.isna().tolist() == [True, False]
    assert (tmp_path / "out" / "figures" / "comparison.svg").exists()


def test_a_panel_without_any_value_is_left_out(compare, tmp_path):
    compare("twin")  # as on a GPU, where no model has the speeds of the CPU's runtimes
    table = pd.read_csv(tmp_path / "out" / "tables" / "comparison.csv")
    assert table[list(UNKNOWN)].isna().all(None)
    assert not (tmp_path / "out" / "figures" / "comparison.svg").exists()
    assert "<b>No figure</b>: no model has an F1 or a speedup yet" in (tmp_path / "out" / "index.html").read_text()
    speeds = table.assign(block_sparse_speedup=2.0, report="one")
    (panel,) = comparison.plots.published.comparison(speeds, "all of it").axes
    assert panel.get_title(loc="left") == "Speedup over the fastest dense run"


def test_a_report_without_numbers_is_a_failure_of_its_model_only(compare, tmp_path):
    compare("one", "two")
    (tmp_path / "out" / "one" / "results.json").write_text("{}")
    with pytest.raises(ReportError, match="1 of 2 models failed: .*results.json: not a results file"):
        compare("one", "two")
    assert pd.read_csv(tmp_path / "out" / "tables" / "comparison.csv").report.tolist()[0] == "two"


def test_a_figure_that_cannot_be_drawn_leaves_the_rest(compare, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison.plots.published, "comparison", lambda *_: 1 / 0)
    with pytest.raises(ReportError, match="complete except for the figure: ZeroDivisionError"):
        compare("one", "two")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<b>No figure</b>: ZeroDivisionError" in page and "comparison.svg" not in page
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "comparison.csv")) == 2


def test_what_is_done_is_kept(compare, tmp_path, monkeypatch):
    compare("one")
    compare("one", "two")
    assert (tmp_path / "count").read_text() == "ot"  # the first was not made again
    assert pd.read_csv(tmp_path / "out" / "tables" / "comparison.csv").report.tolist() == ["one", "two"]
    monkeypatch.setattr(machine, "specs", lambda: {"CPU": "another", "threads used": 1})
    compare("one", "two")
    assert (tmp_path / "count").read_text() == "otot"  # on another machine: other speeds
    monkeypatch.setattr(draft.instruction_sets, "available", lambda: ["torch"])
    compare("one", "two")
    assert (tmp_path / "count").read_text() == "ototot"  # with another kernel, too
    (tmp_path / "one" / "config.json").write_text((tmp_path / "one" / "config.json").read_text() + " ")
    compare("one", "two")
    assert (tmp_path / "count").read_text() == "otototo"  # other input: made again


def test_started_again_after_it_was_ended_between_a_report_and_the_table(compare, tmp_path, monkeypatch):
    with monkeypatch.context() as ended, pytest.raises(KeyboardInterrupt):
        ended.setattr(comparison, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        compare("one", "two")
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["manifest.json", "one"]
    compare("one", "two")
    assert (tmp_path / "count").read_text() == "ot"


def test_names_that_are_the_same_and_other_folders_are_refused(compare, tmp_path):
    with pytest.raises(InputError, match="one: another one would have the same folder"):
        compare("one", "one")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already and is not a report"):
        compare("one")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
