from dataclasses import dataclass

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from qalib import sparsity
from qalib.report import plots, results
from qalib.report.results import Results
from qalib.utils import quantity
from qalib.utils.errors import InputError
from qalib.utils.files import read_json
from qalib.utils.quantity import measure


def test_numbers_explain_themselves(tmp_path):
    one = Results(tmp_path, "01")
    assert one.number("f1", 80.5, "%", "mean overlap") == 80.5
    one.number("gpu", None, "x", "speedup", "no GPU")
    Results(tmp_path, "02").number("heads", 4, "count", "heads", "not used")
    numbers = results.read(tmp_path)
    assert list(numbers) == ["f1", "gpu", "heads"]
    assert numbers["gpu"].note == "no GPU" and numbers["heads"].note == "" and numbers["heads"].source == "02"
    assert set(read_json(tmp_path / "results.json")["numbers"][0]) == set(quantity.Number.__dataclass_fields__)


def test_a_source_run_again_replaces_its_own_numbers_only(tmp_path):
    Results(tmp_path, "01").number("old", 1, "1", "d")
    Results(tmp_path, "02").number("other", 2, "1", "d")
    Results(tmp_path, "01").number("new", 3, "1", "d")
    assert list(results.read(tmp_path)) == ["new", "other"]
    with pytest.raises(ValueError, match="'other' already comes from 02"):
        Results(tmp_path, "01").number("other", 1, "1", "d")


def test_no_value_needs_a_reason(tmp_path):
    with pytest.raises(ValueError, match="'x' has no value and no note"):
        Results(tmp_path, "01").number("x", None, "1", "d")


def test_an_input_of_the_card_has_its_definition_from_the_schema(tmp_path):
    kept = Results(tmp_path, "01")
    kept.number("questions", 8)
    assert results.read(tmp_path)["questions"].definition == "questions evaluated"
    with pytest.raises(ValueError, match="'odd': needs a unit and a definition"):
        kept.number("odd", 1)


def test_what_must_not_be_shown_is_not_kept(tmp_path):
    kept = Results(tmp_path, "01")
    assert kept.withheld_if("") is kept
    withheld = kept.withheld_if("needs weights")
    withheld.number("f1", 80.0, "%", "mean overlap")
    assert withheld.table("t", pd.DataFrame({"a": [1]})) == withheld.figure("f", Figure()) == "needs weights"
    assert results.read(tmp_path)["f1"].value is None and results.read(tmp_path)["f1"].note == "needs weights"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_measured_dataclasses(tmp_path):
    @dataclass
    class Result:
        size: int = measure("count", "how many")
        plain: str = "left out"

    table = Results(tmp_path, "01").measured(Result(3))
    assert table.to_dict("records") == [{"name": "size", "value": 3, "unit": "count", "definition": "how many"}]


def test_tables_show_whole_texts_and_nothing_global_is_changed(tmp_path, sparse, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 11.5)
    settings = dict(matplotlib.rcParams)
    kept = Results(tmp_path, "01")
    table = kept.table("t", pd.DataFrame({"a": [1234.5678], "b": ["x" * 150]}))
    kept.figure("heads", plots.sparsity.heads(sparsity.heads(sparse)))
    for shown in (table, table[["a", "b"]], table.head(1), kept.measured(sparsity.summary(sparse)).tail(3)):
        assert "..." not in shown._repr_html_()
    assert "1,235" in table._repr_html_()
    assert dict(matplotlib.rcParams) == settings


def test_tables_are_the_same_everywhere(tmp_path):
    Results(tmp_path, "01").table("t", pd.DataFrame({"a": [1, 2], "b": ["x", "é"]}))
    assert (tmp_path / "tables" / "t.csv").read_bytes() == "a,b\n1,x\n2,é\n".encode()


def test_what_is_not_there_or_not_ours(tmp_path):
    with pytest.raises(InputError, match="results.json: no such file; run the notebooks"):
        results.read(tmp_path)
    (tmp_path / "results.json").write_text('{"numbers": [{"name": "x"}]}')
    with pytest.raises(InputError, match="not a results file"):
        results.read(tmp_path)


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    """As a spreadsheet reads it: question texts come from outside."""
    texts = ["=cmd|' /C calc'!A0", "@SUM(1+1)", "+1+cmd", "-1+cmd", "\t=1", "\r=1", "＝1", "-0.5", "plain = text", None]
    frame = pd.DataFrame({"question": texts, "=name": 1.5, "count": [1, None] * 5})
    Results(tmp_path, "01").table("worst", frame)
    read = pd.read_csv(tmp_path / "tables" / "worst.csv", keep_default_na=False)
    assert list(read.columns) == ["question", "'=name", "count"]
    assert read.question.tolist() == [f"'{text}".replace("\r", "\n") for text in texts[:7]] + [
        "-0.5",
        "plain = text",
        "",
    ]
    assert read["'=name"].tolist() == [1.5] * 10 and frame.question.tolist()[:9] == texts[:9]
