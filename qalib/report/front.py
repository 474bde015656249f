"""The front page of a report: four answers, the card itself, then step by step the figures and tables, every number.

index.html    the page
report.zip    the whole report, to take away
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
    """Write the page of a report, and all of the report once more as one file."""
    write_text(folder / "index.html", index(folder, manifest))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ARCHIVE)
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, Path("report", path.relative_to(folder)))


def index(folder: Path, manifest: dict[str, Any] | None = None) -> str:
    """The page of a report; what is not there (any more) is named without a link."""
    manifest = manifest or read_json(folder / "manifest.json")
    numbers = results.read(folder)
    body, linked = _card(folder, numbers)
    return pages.render(
        "index.html.j2",
        title=f"Report on {manifest['model']['name']}",
        manifest=manifest,
        numbers=numbers,
        scope=card.scope(numbers),
        comparable=card.is_all_of_dev(numbers),
        unmeasured=sum(number.value is None for number in numbers.values()),
        card=body and Markup(body),
        linked=linked,
        steps=_steps(folder, manifest["notebooks"], body),
        archive=ARCHIVE,
    )


def _card(folder: Path, numbers: dict[str, Number]) -> tuple[str, bool]:
    """The report's card as HTML, "" if it has none, and whether numbers lead to their definitions.

    They do not where the report was made before a number that the card names today.
    """
    if not (path := folder / "card" / "README.md").exists():
        return "", False
    try:
        text, linked = card.render(numbers, linked=True), True
    except InputError:
        text, linked = read_text(path), False
    return rendered(text.split("\n---\n", 1)[-1], folder, numbers), linked


def rendered(text: str, folder: Path, numbers: dict[str, Number]) -> str:
    """A card's Markdown as HTML in which nothing is active and nothing is fetched from elsewhere."""
    return mistune.create_markdown(renderer=CardRenderer(folder, numbers), plugins=["table"])(text)


class CardRenderer(mistune.HTMLRenderer):
    """Headings a level down, figures of the card with captions, `#NAME` as the place of a number's definition.

    HTML in the text is shown, not taken as such; its entities are kept, as the card writes text from outside with them.
    """

    def __init__(self, folder: Path, numbers: dict[str, Number]) -> None:
        super().__init__(escape=False)
        self.folder, self.numbers = folder, numbers

    def inline_html(self, html: str) -> str:
        """As text, but for what is harmless."""
        return html if html in HARMLESS else mistune.escape(html)

    def block_html(self, html: str) -> str:
        """As text."""
        return f"<p>{mistune.escape(html)}</p>\n"

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """The page has a title of its own above the card's."""
        return super().heading(text, level + 1)

    def paragraph(self, text: str) -> str:
        """A figure stands by itself."""
        return text if text.startswith("<figure>") else super().paragraph(text)

    def table(self, text: str) -> str:
        """In a box of its own, which can be moved sideways on a narrow screen."""
        return f'<div class="wide"><table>{text}</table></div>\n'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """One of the figures beside the card; of any other the text."""
        if url not in card.FIGURES or not (self.folder / "card" / url).exists():
            return text
        return _figure(self.folder, f"card/{url}", Markup(text).striptags())

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """To a number's definition, which is shown as well, to a file beside the card, or elsewhere."""
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
    """What each notebook left, in order, then whatever else there is; figures that the card shows are not repeated."""
    figures = {path.stem for path in folder.glob("figures/*.svg")}
    figures -= {name for name in figures if f'src="card/{name}.svg"' in body}
    tables = {path.stem for path in folder.glob("tables/*.csv")}
    stories = [(entry, story.STEPS.get(entry["name"], story.Step())) for entry in entries]
    told = [name for _, step in stories for name in (*step.figures, *step.tables)]
    more = story.Step(dict.fromkeys(sorted(figures.difference(told)), ""), tuple(sorted(tables.difference(told))))
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
