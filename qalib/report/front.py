"""The front page of a report: four answers, the card, the figures and tables step by step, and every number.

index.html    the page
report.zip    the whole report, to download
"""

import zipfile
from pathlib import Path
from typing import Any

import mistune
from markupsafe import Markup, escape

from qalib.report import card, pages, results, story
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, read_text, write_text
from qalib.utils.quantity import Number

ARCHIVE = "report.zip"
HARMLESS = ("<sup>", "</sup>")


def write(folder: Path, manifest: dict[str, Any] | None = None) -> None:
    """Write a report's front page, and the whole report as one zip file."""
    write_text(folder / "index.html", index(folder, manifest))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ARCHIVE)
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, Path("report", path.relative_to(folder)))


def index(folder: Path, manifest: dict[str, Any] | None = None) -> str:
    """A report's front page; files that are absent are named without a link."""
    manifest = dict(manifest or read_json(folder / "manifest.json"))
    numbers = results.read(folder)
    body, linked = _card(folder, numbers)
    return pages.render(
        "index.html.j2",
        title=f"Report on {manifest['model']['name']}",
        manifest=manifest,
        numbers=numbers,
        topics=story.by_topic(numbers),
        scope=card.describe_scope(numbers),
        comparable=card.is_all_of_dev(numbers),
        stated_scope=card.describe_stated_scope(numbers),
        texts=sum(isinstance(number.value, str) for number in numbers.values()),
        unmeasured=sum(number.value is None for number in numbers.values()),
        card=body and Markup(body),
        linked=linked,
        steps=_steps(folder, manifest["notebooks"], body),
        archive=ARCHIVE,
    )


def _card(folder: Path, numbers: dict[str, Number]) -> tuple[str, bool]:
    """The report's card as HTML, "" if it has none, and whether numbers link to their definitions.

    They don't if the report predates a number that today's card needs.
    """
    if not (path := folder / "card" / "README.md").exists():
        return "", False
    try:
        text, linked = card.render(numbers, linked=True), True
    except InputError:
        text, linked = read_text(path), False
    return rendered(text.split("\n---\n", 1)[-1], folder, numbers), linked


def rendered(text: str, folder: Path, numbers: dict[str, Number]) -> str:
    """A card's Markdown as HTML, with nothing active and nothing fetched from elsewhere."""
    return str(mistune.create_markdown(renderer=CardRenderer(folder, numbers), plugins=["table"])(text))


class CardRenderer(mistune.HTMLRenderer):
    """Moves headings down a level, adds captions to the card's figures, and links `#NAME` to a number's definition.

    HTML in the text is shown as text; entities are kept, as the card uses them to escape outside text.
    """

    def __init__(self, folder: Path, numbers: dict[str, Number]) -> None:
        super().__init__(escape=False)
        self.folder, self.numbers = folder, numbers

    def inline_html(self, html: str) -> str:
        """As text, unless it is HARMLESS."""
        return html if html in HARMLESS else mistune.escape(html)

    def block_html(self, html: str) -> str:
        """As text."""
        return f"<p>{mistune.escape(html)}</p>\n"

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """A level down, as the page's own title is above the card's."""
        return super().heading(text, level + 1)

    def paragraph(self, text: str) -> str:
        """A figure is not wrapped in a paragraph."""
        return text if text.startswith("<figure>") else super().paragraph(text)

    def table(self, text: str) -> str:
        """In a box that scrolls sideways on a narrow screen."""
        return f'<div class="wide"><table>{text}</table></div>\n'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A figure if it is one of the card's, else its text."""
        if url not in card.FIGURES or not (self.folder / "card" / url).exists():
            return text
        return _figure(self.folder, f"card/{url}", Markup(text).striptags())

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """To a number's definition, also shown as a tooltip, to a file beside the card, or elsewhere."""
        if url.startswith("#"):
            number = self.numbers.get(url[1:])
            return f'<a class="number" href="{escape(url)}" title="{escape(number.definition)}">{text}</a>' if (
                number) else text  # fmt: skip
        if "://" in url:
            return super().link(text, url, title)
        return super().link(text, f"card/{url}") if (self.folder / "card" / url).is_file() else text


def _figure(folder: Path, source: str, alt: str) -> Markup:
    name = Path(source).stem
    notebook = story.SOURCES.get(name, "")
    page = _page(folder, notebook)
    caption = story.CAPTIONS.get(name, "")
    return Markup(pages.render(
        "figure.html.j2", source=source, alt=alt, caption=caption, notebook=notebook, page=page
    ))  # fmt: skip


def _page(folder: Path, notebook: str) -> str | None:
    page = f"notebooks/{notebook}.html"
    return page if (folder / page).exists() else None


def _steps(folder: Path, entries: list[dict[str, Any]], body: str) -> list[dict[str, Any]]:
    """What each notebook produced, in order, then everything else; figures shown in the card are not repeated."""
    figures = {path.stem for path in folder.glob("figures/*.svg")}
    figures -= {name for name in figures if f'src="card/{name}.svg"' in body}
    tables = {path.stem for path in folder.glob("tables/*.csv")}
    stories = [(entry, story.SECTIONS.get(entry["name"], story.Section())) for entry in entries]
    told = [name for _, step in stories for name in (*step.figures, *step.tables)]
    more = story.Section(dict.fromkeys(sorted(figures.difference(told)), ""), tuple(sorted(tables.difference(told))))
    if more.figures or more.tables:
        stories.append(({"name": "", "title": "More", "seconds": None}, more))
    return [
        entry | {
            "page": _page(folder, entry["name"]),
            "figures": [_figure(folder, f"figures/{name}.svg", name.replace("_", " "))
                        for name in step.figures if name in figures],
            "tables": [name for name in step.tables if name in tables],
        }
        for entry, step in stories
    ]  # fmt: skip
