"""The lecturer's pages, of the course's own notebooks and of one that is made here."""

import re

import nbformat
import pytest

from qalib.site import lecture
from qalib.utils import paths

COURSE = sorted(paths.COURSE.glob("[0-9]*.ipynb"))
FRAMES = '<div class="frames"><input type="range" data-labels="[1]"><img alt="first" src="data:,"></div>'


def code(source, *tags, **data):
    outputs = [nbformat.v4.new_output("display_data", {kind.replace("_", "/"): value for kind, value in data.items()})]
    return nbformat.v4.new_code_cell(source, metadata={"tags": [*tags]}, outputs=outputs if data else [])


@pytest.fixture
def lesson():
    text = nbformat.v4.new_markdown_cell
    svg = code("plot()")
    svg.outputs = [nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>"},
                                          metadata={"image/svg+xml": {"alt": "two lines <cross>"}})]  # fmt: skip
    cells = [
        text("# Sums\n\n**The question:** what is a sum?\n"), text("## Two lines\n\nSee *where* they cross."), svg,
        text("## A slider"), code("explore()", text_html=FRAMES), code("table", text_html="<table></table>"),
        text("## Exercises\n\n**1.** *(easy, 5 minutes: to add up)* What is 1 + 1?"),
        code("two = 1 + 1", "solution"), code("check(two)", "check", text_markdown="Right: that is it."),
        text("**2.** *(hard, 10 minutes: to write it)* Write the mask."),
        code("mask = teaching.algorithms.magnitude_mask", "solution"),
        code("check(mask)", "check", text_markdown="Right: for others."),
    ]  # fmt: skip
    course = {"minutes": 30, "needs": ["counting"], "teaches": ["adding", "writing"]}
    return lecture.Lesson("01_sums", nbformat.v4.new_notebook(cells=cells, metadata={"course": course}), 12.4)


def test_the_lecturers_page_says_what_the_notebook_says(lesson):
    page = lecture.overview([lesson, lesson]).cells[0].source
    row = ("| [Sums](01_sums.ipynb)<br>what is a sum? | counting | adding; writing | 30 min to read, "
           "15 min for 2 exercises (1 easy, 1 hard), 12 s to run |")  # fmt: skip
    assert page.count(row) == 2 and "In total: 60 min to read, 30 min of exercises" in page


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_every_notebook_of_the_course_says_it(path):
    found = lecture.Lesson(path.stem, nbformat.read(path, as_version=4), 0)
    assert found.about.keys() == {"minutes", "needs", "teaches"} and 5 <= found.about["minutes"] <= 30
    assert found.about["needs"] and len(found.about["teaches"]) >= 2 and found.question.endswith("?")
    assert [exercise.number for exercise in found.exercises] == list(range(1, len(found.exercises) + 1))


def test_answers_stand_apart(lesson):
    pages = lecture.write([lesson])
    assert pages.keys() == {"lecturer", "01_sums_slides", "01_sums_answers"}
    answers = re.sub(r"<[^>]+>", "", pages["01_sums_answers"])
    assert "What is 1 + 1?" in answers and "two = 1 + 1" in answers.replace("two  =", "two =")
    assert "Right: that is it." in answers and "algorithms.magnitude_mask" in answers
    read = lecture.without_answers(lesson)
    text = "".join(cell.source + str(cell.get("outputs", "")) for cell in read.cells)
    assert "1 + 1?" in text and "two = " not in text and "magnitude_mask" not in text and "Right" not in text
    assert "[The answer](01_sums_answers.html#Exercise-2)" in text and "check(two)" in text
    assert lesson.node.cells[7].source == "two = 1 + 1"  # as it was
    assert 'id="Exercise-2"' in pages["01_sums_answers"]


def test_slides_are_the_figures_with_their_sections_and_notes(lesson):
    page = lecture.slides(lesson)
    headings = re.findall(r"<h[12]>(.+?)</h[12]>", page)
    assert headings == ["Sums", "Two lines", "A slider", "Exercises"]
    assert 'alt="two lines &lt;cross&gt;"' in page and FRAMES in page and "<table>" not in page
    assert "See <em>where</em> they cross." in page and "To add up (easy, 5 minutes)" in page
    assert "slider.dataset.labels" in page and "http" not in page.replace("http://www.w3.org", "")
