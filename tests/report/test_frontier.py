"""The frontier: what stands in its table, where it comes from, and what is drawn."""

from dataclasses import replace

import pytest
from matplotlib.colors import to_rgb

from qalib.pruning import history
from qalib.report import frontier, plots
from qalib.report.frontier import DENSE, RUN, THIS
from qalib.utils.files import write_json
from qalib.utils.quantity import Number

RUN_META = {
    "arguments": {"method": "keep"}, "density": 1.0, "windows_seen": 6144,
    "scores": {"model": {"exact_match": 60.0, "f1": 70.0}, "teacher": {"exact_match": 61.0, "f1": 71.0}},
}  # fmt: skip


def numbers(**values):
    return {name: Number(name, value, "1", "", "04", "" if value else "not run") for name, value in values.items()}


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_model_among_its_runs_and_published_ones(sparse, tmp_path):
    sparse = replace(sparse, folder=tmp_path, meta={"scores": {"model": {"f1": 80.0}}})
    write_json(tmp_path / "runs" / "short-dense.json", RUN_META)
    known = {"bert_base_speedup": 20.0, "dense_bert_base_speedup": 5.0}
    known = numbers(linear_density_percent=30.0, machine_cpu="Zen 4", **known)
    rows = frontier.frontier(sparse, known)
    ours, run = rows.iloc[0], rows.iloc[1]
    assert (ours.group, ours.linear_density_percent, ours.f1, ours.speedup) == (THIS, 30, 80, 20)
    assert (run.group, run.linear_density_percent, run.f1) == (f"{RUN}: dense, 6k windows", 100, 70)
    assert run.source == "runs/short-dense.json" and run.speedup == 5
    published = rows[2:]
    assert published.f1.between(80, 92).all() and published[["speedup", "hardware", "source"]].notna().all(None)
    figure = plots.published.frontier(rows)
    assert f"{THIS} (Zen 4)" in labels(figure) and len(labels(figure)) == published.group.nunique() + 2
    pruning = [next(line for line in axes.lines if len(line.get_xdata()) == 2) for axes in figure.axes]
    assert [list(line.get_ydata()) for line in pruning] == [[70, 80]] * 2
    assert [list(line.get_xdata()) for line in pruning] == [[100, 30], [5, 20]]
    starred = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert starred == ["80.0", "80.0"]


def test_without_a_dense_run_the_model_itself_stands_there_run_dense(sparse, tmp_path):
    sparse = replace(sparse, folder=tmp_path, meta={"scores": {"model": {"f1": 80.0}}})
    rows = frontier.frontier(sparse, numbers(linear_density_percent=30.0, bert_base_speedup=20.0,
                                             dense_bert_base_speedup=5.0, machine_cpu="Zen 4"))  # fmt: skip
    dense = frontier.before_pruning(rows)
    assert (dense.group, dense.f1, dense.speedup, dense.linear_density_percent) == (DENSE, 80, 5, 30)


def test_a_run_has_the_same_mark_and_words_in_both_figures(sparse, tmp_path):
    sparse = replace(sparse, folder=tmp_path, meta={"scores": {"model": {"f1": 80.0}}})
    for count, method in enumerate(("movement", "keep", "magnitude", "movement", "obs"), 1):
        meta = {"arguments": {"method": method}, "density": 0.3, "windows_seen": 1000 * count}
        write_json(tmp_path / "runs" / f"{count}.json", RUN_META | meta)
    rows = frontier.frontier(sparse, numbers(linear_density_percent=30.0, bert_base_speedup=20.0, machine_cpu="Zen 4"))
    own = {part.get_label(): part for part in plots.published.frontier(rows).axes[0].collections}
    lines = plots.training.runs(history.read_runs(tmp_path)).axes[0].lines
    runs = {" ".join(line.get_label().split()): line for line in lines if line.get_marker() != "None"}
    assert "movement, then trained further, 2k windows" in runs and len(runs) == 5
    for name, line in runs.items():
        assert to_rgb(line.get_color()) == pytest.approx(tuple(own[name].get_facecolor()[0][:3]))


@pytest.mark.parametrize("meta", [{}, {"scores": "none"}, {"twin_of": "a model"}])
def test_a_model_without_scores_is_not_drawn(sparse, meta):
    rows = frontier.frontier(replace(sparse, meta=meta), numbers(linear_density_percent=30.0, bert_base_speedup=None))
    assert rows.f1.isna()[0]
    assert not any(label.startswith(THIS) for label in labels(plots.published.frontier(rows)))


def test_each_group_of_the_legend_looks_different(sparse, tmp_path):
    sparse = replace(sparse, folder=tmp_path, meta={"scores": {"model": {"f1": 80.0}}})
    for count in range(1, 8):
        write_json(tmp_path / "runs" / f"{count}.json", RUN_META | {"windows_seen": 1000 * count})
    rows = frontier.frontier(sparse, numbers(linear_density_percent=30.0, bert_base_speedup=20.0, machine_cpu="Zen 4"))
    figure = plots.published.frontier(rows)
    drawn = figure.axes[0].collections
    looks = {(part.get_paths()[0].vertices.tobytes(), part.get_facecolor().tobytes()) for part in drawn}
    assert len(looks) == len(drawn) == len(labels(figure))
