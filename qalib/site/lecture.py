"""For lecturers: what each notebook of the course needs, takes and teaches, slides made of its figures, the answers.

    course/lecturer.html      a row a notebook
    course/NAME_slides.html   its figures, one a slide, with the notebook's text as notes
    course/NAME_answers.html  its exercises with solutions, and why they are right

Everything is read from the notebooks: the words before each exercise, the run's figures and verdicts, and the metadata
`course` with `minutes` (to read, without exercises), `needs` and `teaches` (lists of phrases).
"""

import base64
import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

import nbformat
from markupsafe import Markup
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from qalib.report import pages

EXERCISE = re.compile(r"\*\*(\d+)\.\*\* \*\((easy|medium|hard), (\d+) minutes: (to .+?)\)\*\s*(.*)", re.DOTALL)
QUESTION = re.compile(r"\*\*The question:\*\* (.+)")
ABOUT = """# For lecturers

To plan a course: what each notebook needs, takes and teaches. Slides are made of the notebook's own figures, sliders
included: arrow keys turn them, `n` shows the notes. Answers stand apart; the pages that students read are without
them. `make exercises OPTIONS=--nbgrader` writes the notebooks for nbgrader, with points by difficulty.

"""


@dataclass(frozen=True)
class Exercise:
    """One exercise: what is asked, and of a notebook that was run the solution's code and what the check said."""

    number: int
    difficulty: str
    minutes: int
    purpose: str
    text: str
    solution: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Lesson:
    """A notebook of the course: its name, the notebook (run, for slides and answers) and how long it took to run."""

    name: str
    node: NotebookNode
    seconds: float

    @property
    def title(self) -> str:
        """The notebook's first heading."""
        return self.node.cells[0].source.split("\n", 1)[0].removeprefix("# ").strip()

    @property
    def question(self) -> str:
        """What the notebook asks."""
        return next(QUESTION.finditer(self.node.cells[0].source))[1]

    @property
    def about(self) -> dict:
        """The metadata `course`: `minutes`, `needs`, `teaches`."""
        return self.node.metadata["course"]

    @property
    def exercises(self) -> list[Exercise]:
        """The notebook's exercises, in order."""
        cells, exercises = self.node.cells, []
        matches = {place: match for place, cell in enumerate(cells) if (match := EXERCISE.search(cell.source))}
        for (place, match), end in zip(matches.items(), [*list(matches)[1:], len(cells)], strict=True):
            number, difficulty, minutes, purpose, text = match.groups()
            tagged = {tag: cell for cell in cells[place:end] for tag in cell.metadata.get("tags", [])}
            texts = [o["data"].get("text/markdown", "") for o in tagged["check"].get("outputs", []) if "data" in o]
            purpose = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", " ".join(purpose.split()))  # a link's text
            exercises.append(Exercise(int(number), difficulty, int(minutes), purpose, text,
                                  tagged["solution"].source, "".join(texts)))  # fmt: skip
        return exercises


def write(lessons: Sequence[Lesson]) -> dict[str, str]:
    """The pages of all lessons by name, links still those of the repository's notebooks."""
    made = {"lecturer": _page(overview(lessons), "lecturer")}
    for lesson in lessons:
        made[f"{lesson.name}_slides"] = slides(lesson)
        made[f"{lesson.name}_answers"] = _page(answers(lesson), f"{lesson.name}_answers")
    return made


def overview(lessons: Sequence[Lesson]) -> NotebookNode:
    """The lecturer's page: a row a notebook, and what all take together."""
    rows, reading, working = [], 0, 0
    for lesson in lessons:
        about, asked = lesson.about, lesson.exercises
        minutes = sum(exercise.minutes for exercise in asked)
        reading, working = reading + about["minutes"], working + minutes
        easy = ", ".join(f"{n} {kind}" for kind in ("easy", "medium", "hard")
                         if (n := sum(exercise.difficulty == kind for exercise in asked)))  # fmt: skip
        takes = f"{about['minutes']} min to read, {minutes} min for {len(asked)} exercises ({easy}), "
        takes += f"{lesson.seconds:.0f} s to run"
        links = f"[slides]({lesson.name}_slides.html), [answers]({lesson.name}_answers.html)"
        rows.append([f"[{lesson.title}]({lesson.name}.ipynb)<br>{lesson.question}", "; ".join(about["needs"]),
                     "; ".join(about["teaches"]), takes, links])  # fmt: skip
    table = ["| notebook | needs | teaches | takes | |", "| --- | --- | --- | --- | --- |"]
    table += [f"| {' | '.join(row)} |" for row in rows]
    total = f"\n\nIn total: {_hours(reading)} to read, {_hours(working)} of exercises. How long a notebook runs was "
    total += "measured while this page was made."
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(ABOUT + "\n".join(table) + total)])


def answers(lesson: Lesson) -> NotebookNode:
    """A notebook's exercises with their solutions and what the check says of them."""
    cells = [nbformat.v4.new_markdown_cell(f"# Answers: {lesson.title}\n\nTo [the notebook]({lesson.name}.ipynb).")]
    for exercise in lesson.exercises:
        head = (
            f"## Exercise {exercise.number}\n\n*{exercise.difficulty}, {exercise.minutes} minutes: {exercise.purpose}*"
        )
        cells.append(nbformat.v4.new_markdown_cell(f"{head}\n\n{exercise.text}"))
        cells.append(nbformat.v4.new_code_cell(exercise.solution))
        if written := re.fullmatch(r"\w+ = teaching\.(\w+)\.(\w+)", exercise.solution):
            link = f"[`{written[1]}.{written[2]}`](../../qalib/teaching/lessons/{written[1]}.py)"
            cells.append(nbformat.v4.new_markdown_cell(f"The code: {link}"))
        cells.append(nbformat.v4.new_markdown_cell(exercise.verdict))
    return nbformat.v4.new_notebook(cells=cells)


def without_answers(lesson: Lesson) -> NotebookNode:
    """The notebook as students read it: a solution is a link to the answers, and a check says nothing."""
    node, number = copy.deepcopy(lesson.node), 0
    for place, cell in enumerate(node.cells):
        if found := EXERCISE.search(cell.source):
            number = found[1]
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            link = f"[The answer]({lesson.name}_answers.html#Exercise-{number})"
            node.cells[place] = nbformat.v4.new_markdown_cell(link)
        elif "check" in tags:
            cell.outputs = []
    return node


def slides(lesson: Lesson) -> str:
    """A page of slides: title, one a figure under its section's heading, and the exercises."""
    made, heading, notes = [], lesson.title, []
    for cell in lesson.node.cells[1:]:
        if cell.cell_type == "markdown":
            heads = re.findall(r"^## (.+)", cell.source, re.MULTILINE)
            heading, notes = (heads[-1], []) if heads else (heading, notes)
            notes.append(re.sub(r"^## .+", "", cell.source, flags=re.MULTILINE))
            continue
        if "exercise" in heading.lower():
            break
        for output in cell.outputs:
            if figure := _figure(output):
                made.append({"heading": heading, "figure": figure, "notes": Markup(markdown2html("\n\n".join(notes)))})
                notes = []
    return pages.render(
        "slides.html.j2", title=f"{lesson.title}: slides", lesson=lesson, figures=made, exercises=lesson.exercises
    )


def _figure(output: NotebookNode) -> Markup | None:
    data = output.get("data", {})
    if svg := data.get("image/svg+xml"):
        said = output.metadata.get("image/svg+xml", {}).get("alt", "a figure")
        data = base64.b64encode(svg.encode()).decode()
        return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(said, data)
    html = data.get("text/html", "")
    return Markup(html) if html.startswith('<div class="frames">') else None


def _page(node: NotebookNode, name: str) -> str:
    home = '<a href="../index.ipynb">home</a> <a href="lecturer.html">for lecturers</a>'
    return pages.as_html(node, name, f'<nav class="report" aria-label="site">{home}</nav>', unfolded=True)


def _hours(minutes: int) -> str:
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h".replace(".0 ", " ")
