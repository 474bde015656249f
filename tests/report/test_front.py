"""The front page of a report, made of the kept report of the bundled model."""

import re
import shutil
import zipfile
from dataclasses import fields
from html import unescape

import pytest
from conftest import ROOT

from qalib.report import front, story
from qalib.report.inputs import CardInputs
from qalib.utils.files import read_json, write_json, write_text

HOSTILE = '<script>x()</script><img src=x onerror=x()>[a](javascript:x())![b](https://example.org/b.png)"]|`'


@pytest.fixture
def report(tmp_path):
    """The kept report, with a number for whatever the card asks for today."""
    out = shutil.copytree(ROOT / "reports" / "bundled-dev-v1.1", tmp_path / "r")
    kept = read_json(out / "results.json")["numbers"]
    for field in fields(CardInputs):
        if field.name not in {number["name"] for number in kept}:
            about = {"source": "s", "note": "not here"} | field.metadata
            kept.append(
                {name: about[name] for name in ("unit", "definition", "source", "note")}
                | {"name": field.name, "value": None}
            )
    write_json(out / "results.json", {"numbers": kept})
    return out


def test_the_four_answers_come_first_then_the_card_the_steps_and_every_number(report):
    page = front.index(report)
    order = ["What is it?", "How good is it?", "How fast is it?", "Can I trust it?", '<article class="card">',
             "Pruning details", "Step by step", "Every number", 'href="report.zip"', 'href="results.json"']  # fmt: skip
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert page.index("What is left of the model") < page.index("How well it answers") < page.index("Is it faster?")


def test_every_number_of_the_card_leads_to_its_definition(report):
    page = front.index(report)
    names = re.findall(r'<a class="number" href="#(\w+)"', page)
    assert {"f1", "linear_density_percent", "block_sparse_speedup", "heads_removable"} <= set(names) and len(names) > 40
    assert all(f'<tr id="{name}">' in page for name in names if name != "numbers")
    assert "earlier version" not in page


def test_f1_says_what_it_is_of_and_stands_beside_the_teachers_on_all_of_dev_only(tmp_path):
    report = shutil.copytree(ROOT / "reports" / "bundled-dev-v1.1", tmp_path / "r")
    page = front.index(report)
    assert "F1 on all 10,570 questions of SQuAD v1.1 dev" in page and "dense teacher's F1, as stated" in page
    numbers = {number["name"]: number for number in read_json(report / "results.json")["numbers"]}
    numbers["questions"]["value"], numbers["data_description"]["value"] = 235, "a few"
    write_json(report / "results.json", {"numbers": list(numbers.values())})
    page = front.index(report)
    assert "F1 on 235 questions (a few)" in page and "dense teacher's F1" not in page


def test_f1_on_dev_as_stated_leads_where_another_set_was_asked(report):
    numbers = {number["name"]: number for number in read_json(report / "results.json")["numbers"]}
    numbers["questions"]["value"], numbers["data_description"]["value"] = 235, "a few"
    numbers["stated_f1"] = numbers["stated_f1"] | {"value": 82.0}
    stated = "82.0 %</a></b> F1 on all 10,570 questions of SQuAD v1.1 dev, as the checkpoint states"
    for count, first, then in ((10570, stated, "In this run, on 235 questions (a few): F1"),
                               (235, "F1 on 235 questions (a few)", "Exact match")):  # fmt: skip
        numbers["stated_questions"] = numbers["stated_f1"] | {"name": "stated_questions", "value": count}
        write_json(report / "results.json", {"numbers": list(numbers.values())})
        before, after = front.index(report).split("How good is it?")[1].split("</section>")[0].split("<p>")
        assert first in before and then in after


def test_only_numbers_count_as_numbers(report):
    numbers = read_json(report / "results.json")["numbers"]
    values = [number["value"] for number in numbers]
    texts, missing = sum(isinstance(value, str) for value in values), values.count(None)
    page = front.index(report)
    said = f"{len(values) - texts - missing} numbers</a></b> and {texts} texts, each with definition and source"
    assert texts > 20 and missing and said in page and f"{missing} more could not be measured" in page


def test_speed_is_over_the_fastest_dense_run_and_an_evaluation_is_two_steps(report):
    numbers = {number["name"]: number for number in read_json(report / "results.json")["numbers"]}
    speeds = {"baseline": "dense fp32", "evaluation_baseline": "dense fp32, by length", "evaluation_speedup": 2.0,
              "batching_speedup": 3.0, "usual_speedup": 6.0, "evaluation_timed": "evaluating a few"}  # fmt: skip
    for name, value in speeds.items():
        numbers[name] = numbers["f1"] | {"name": name, "value": value, "unit": "x", "note": ""}
    write_json(report / "results.json", {"numbers": list(numbers.values())})
    tile = front.index(report).split("How fast is it?")[1].split("</section>")[0]
    text = re.sub(r"<[^>]+>", "", tile)
    assert "as fast as dense fp32, the fastest dense runtime, forward pass" in text
    assert "2.00x as fast as dense fp32, by length, the fastest dense way. That is 3.00x as fast as the usual" in text
    assert "6.00x in all (evaluating a few)" in text


def test_a_card_of_an_earlier_version_is_shown_as_it_is(report):
    numbers = [n for n in read_json(report / "results.json")["numbers"] if n["name"] != "granularity"]
    write_json(report / "results.json", {"numbers": numbers})
    page = front.index(report)
    assert "written by an earlier version" in page and "10<sup>6</sup> bytes" in page


def test_each_figure_stands_there_once_with_what_to_see_and_where_it_comes_from(report):
    for name in story.SECTIONS:
        write_text(report / "notebooks" / f"{name}.html", "")
    page = front.index(report)
    figures = re.findall(r'<figure><a href="(?:card|figures)/(\w+)\.svg">.*?<figcaption>(.*?)</figcaption>', page, re.S)
    assert sorted(name for name, _ in figures) == sorted(path.stem for path in (report / "figures").glob("*.svg"))
    for name, caption in figures:
        if name in story.CAPTIONS:
            assert (
                story.CAPTIONS[name] in unescape(caption) and f'href="notebooks/{story.SOURCES[name]}.html"' in caption
            )


def test_every_number_stands_once_under_its_topic(report):
    numbers = {number["name"] for number in read_json(report / "results.json")["numbers"]}
    part = front.index(report).split('<h2 id="numbers">')[1]
    assert sorted(re.findall(r'<tr id="(\w+)">', part)) == sorted(numbers)
    topics = dict(re.findall(r"<details>\n<summary>(.*?) <span.*?>(\d+)</span>", part))
    assert {"What is left of the model", "How well it answers", story.MACHINE} <= topics.keys()
    assert sum(map(int, topics.values())) == len(numbers) and "<details open" not in part


def test_hostile_text_in_a_card_is_text(report):
    numbers = read_json(report / "results.json")["numbers"]
    for number in numbers:
        if isinstance(number["value"], str):
            number["value"] = HOSTILE
        number["definition"] += HOSTILE
    write_json(report / "results.json", {"numbers": numbers})
    written = front.index(report)
    text = f"# {HOSTILE}\n\n{HOSTILE}\n\n<div onclick=x()>\n\nb"
    for page in (written, front.rendered(text, report, {})):
        assert not re.search(r"<(script|img src=x|div onclick)", page) and "&lt;script&gt;x()" in page
        assert "javascript:" not in "".join(re.findall(r'(?:href|src)="[^"]*"', page))
        assert "example.org" not in "".join(re.findall(r"<img[^>]*>", page))


def test_the_archive_holds_the_report(report):
    front.write(report)
    front.write(report)
    files = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()} - {"report.zip"}
    with zipfile.ZipFile(report / "report.zip") as archive:
        assert {name.removeprefix("report/") for name in archive.namelist()} == files
        assert archive.read("report/index.html") == (report / "index.html").read_bytes()


def test_every_figure_and_table_of_the_notebooks_has_its_place():
    """What the notebooks keep and what the story knows of are the same."""
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        source = path.read_text()
        step = story.SECTIONS[path.stem]
        assert set(re.findall(r'\.figure\(\\"(\w+)\\"', source)) == step.figures.keys(), path.stem
        assert set(re.findall(r'\.table\(\\"(\w+)\\"', source)) == set(step.tables), path.stem
