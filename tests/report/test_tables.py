"""Tables as HTML: what a reader sees in a notebook and on a page."""

import re
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from IPython.core.formatters import HTMLFormatter

from qalib.report import tables
from qalib.report.results import Table

ROWS = pd.DataFrame(
    {
        "kept_weights": [1234567, 5],
        "median_seconds": [0.0123456, None],
        "name": ["linear_density_percent", "f1"],
        "references": [("a", "b"), ("<script>",)],
        "note": ["a long explanation " * 8, None],
    }
)


def cells(html, tag="td"):
    found = re.findall(rf'<{tag}[^>]*style="([^"]*)"[^>]*>(.*?)</{tag}>', html)
    return [(re.search("text-align:(\\w+)", style)[1], text) for style, text in found]


def test_texts_stand_on_the_left_and_numbers_on_the_right_in_words():
    html = tables.html_table(ROWS)
    assert cells(html, "th") == [
        ("right", "kept weights"), ("right", "median (s)"), ("left", "name"), ("left", "references"), ("left", "note"),
    ]  # fmt: skip
    assert [text for _, text in cells(html)[:5]] == [
        "1,234,567", "0.01235", "linear density", "a; b", ROWS.note[0],
    ]  # fmt: skip
    assert [text for _, text in cells(html)[5:]] == ["5", "", "F1", "&lt;script&gt;", ""]
    assert "nan" not in html.lower() and "None" not in html and "..." not in html


def test_an_index_is_shown_if_it_says_something():
    named = ROWS[["kept_weights"]].set_axis(["encoder", "rest"]).rename_axis("part_of_it")
    assert [text for _, text in cells(tables.html_table(named), "th")] == ["part of it", "kept weights"]
    pivot = pd.DataFrame({"bits": [8, 8, 4, 4], "group": ["row", "all"] * 2, "f1": [1.0, 2, 3, 4]})
    pivot = pivot.pivot(index="bits", columns="group", values=["f1"])
    assert [text for _, text in cells(tables.html_table(pivot), "th")] == ["bits", "F1, all", "F1, row"]
    assert [text for _, text in cells(tables.html_table(ROWS.head(1)[["kept_weights"]]), "th")] == ["kept weights"]


def test_a_long_table_scrolls_and_is_whole():
    html = Table({"row_number": range(100)})._repr_html_()
    assert "max-height" in html and html.count("<tr>") == 101
    assert "max-height" not in tables.html_table(pd.DataFrame({"row_number": range(3)}))
    assert tables.html_table(pd.DataFrame({"a": []})).count("<tr>") == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_notebook_shows_every_frame_like_that(monkeypatch, there):
    formatter = HTMLFormatter()
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"text/html": formatter}))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell if there else None))
    tables.style_notebook()
    assert ("kept weights" in formatter(ROWS)) == there
