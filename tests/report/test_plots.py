import re

import pandas as pd
import pytest

from qalib import sparsity
from qalib.benchmark import baseline, end_to_end
from qalib.qa import evaluation, squad
from qalib.report import plots, results
from qalib.utils import paths


@pytest.fixture
def drawn(sparse):
    tables, shares = sparsity.tables(sparse), sparsity.block_fill(sparse)
    rows = evaluation.evaluate(sparse.model, sparse.tokenizer, squad.load("sample").first(8), progress=False).rows
    times = pd.DataFrame(
        {"runtime": ["dense", "compact"], "dtype": "fp32", "device": "cpu", "batch": 2, "length": 8, "rounds": 3,
         "speedup": [1.0, 1.5], "speedup_over_best": [0.8, 1.2], "baseline": "dense fp32",
         "best_baseline": "dense bf16", "bound": [1.0, 2.0], "note": "", "remark": ["", "a single round"]}
    )  # fmt: skip
    ways = [
        (way, how.runtime, how.dtype) for way, how in end_to_end.ways_of(["block-sparse"], ["bf16", "fp32"]).items()
    ]
    ways = pd.DataFrame(ways, columns=["way", "runtime", "dtype"]).assign(
        median_seconds=[6.0, 5.0, 4.0, 3.0, 1.0], rounds=3, same_answers=1.0
    )
    ways = baseline.over_fastest_dense(ways)
    return lambda: (
        plots.sparsity.of_sparsity(tables, shares)
        | {
            "published": plots.published.published({"this model": (31.7, 70.0, 80.0), "twin": (20.0, None, None)}),
            "groups": plots.evaluation.by_group(
                evaluation.by_group(rows, "question_word"), "EM and F1 by question word", "8 questions (a few)"
            ),
            "speedup": plots.speed.speedup(times),
            "evaluation": plots.speed.evaluation_time(ways),
        }
    )


def test_the_same_bytes_on_every_run_and_nothing_from_outside(drawn, tmp_path):
    for name, figure in drawn().items():
        results.Results(tmp_path / "a", "x").figure(name, figure)
    for name, figure in drawn().items():
        results.Results(tmp_path / "b", "x").figure(name, figure)
    files = sorted((tmp_path / "a" / "figures").iterdir())
    assert len(files) == 8
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / "figures" / file.name).read_bytes(), file.name
        assert not re.search(r'(href|src)="https?:', file.read_text())


def test_scores_say_what_they_are_of(drawn):
    assert drawn()["groups"].axes[0].get_title("left").endswith("\n8 questions (a few)")


def test_a_speedup_is_over_the_fastest_dense_and_says_what_could_mislead(drawn):
    figure = drawn()["speedup"]
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["0.80x (1.00x over dense fp32)", "1.20x (1.50x over dense fp32) [1]"]
    assert "dense bf16" in figure.axes[0].get_xlabel() and figure.get_supxlabel() == "[1] a single round"


def test_a_whole_evaluation_is_two_steps_over_the_fastest_dense_way(drawn):
    axes = drawn()["evaluation"].axes[0]
    assert [text.get_text() for text in axes.texts][:2] == ["6.0 s, 0.50x", "5.0 s, 0.60x"]
    assert axes.get_xlabel().endswith("speedup over dense fp32, by length, the fastest dense way")
    assert axes.get_title("left") == "The whole evaluation: 2.00x by batching, then 3.00x by block-sparse fp32"


def test_the_chart_stands_alone(sparse):
    tables, shares = sparsity.tables(sparse), sparsity.block_fill(sparse)
    page = plots.sparsity.density_chart(tables["matrices"], shares)
    assert page == plots.sparsity.density_chart(tables["matrices"], shares)
    assert page.count("data:image/png;base64,") == 12 and "layer 1, FFN out" in page
    assert not re.search(r'<(script|link)[^>]+(src|href)="http', page)


def test_the_published_checkpoints_are_there():
    table = pd.read_csv(paths.PUBLISHED_CHECKPOINTS)
    assert len(table) == 240 and table.f1.between(80, 95).all()


def test_the_interactive_chart_fits_a_phone_and_a_dark_page(sparse):
    tables, shares = sparsity.tables(sparse), sparsity.block_fill(sparse)
    page = plots.sparsity.density_chart(tables["matrices"], shares)
    head = page.split("</head>")[0]
    assert "width=device-width" in head and "prefers-color-scheme: dark" in head
    assert '"width": "container"' in page and '"background": "transparent"' in page
