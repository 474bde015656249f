"""The site: notebooks, glossary, reports and sources as static pages that fetch nothing from elsewhere.

    notebooks/index.ipynb           index.html
    notebooks/[course/]X.ipynb      [course/]X.html, freshly run; of the course without answers
                                    course/lecturer.html, with slides and answers of the course's notebooks
    notebooks/glossary.md           glossary.html
    reports/NAME/                   reports/NAME/, with its front page
    web/page.webp                   the same, on the front page
    web/                            live/, the live page, if npm's packages are installed
    qalib/PART/X.py                 api/qalib/PART/X.html, the API reference, an anchor at every name

Links are written for the repository, from file to file; each is turned into one between pages.
"""

import os
import re
import shutil
import tomllib
from collections.abc import Sequence
from html import escape
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbformat import NotebookNode

from qalib.report import execution, front, pages
from qalib.report.progress import Progress, say
from qalib.site import api, lecture, live
from qalib.site.links import broken_links, page_path, relink
from qalib.utils.errors import InputError
from qalib.utils.files import read_text, replace_folder, write_text
from qalib.utils.paths import ROOT

REPORTS = ("bundled-dev-v1.1",)  # those that are kept in the repository
MARK = ".nojekyll"  # makes GitHub Pages serve the files as they are; also tells a site from other folders


def make(
    out: Path | str = "site",
    notebooks: Sequence[Path] | None = None,
    parameters: dict[str, Any] | None = None,
    root: Path = ROOT,
) -> Path:
    """Run the notebooks (by default all) and write the site; returns its folder.

    `parameters` go to every notebook that declares them. Raises InputError if `out` exists and is not a site, or if a
    link is broken, and ReportError if a notebook fails.
    """
    out = Path(out)
    source = root / "notebooks"
    if out.exists() and not (out / MARK).exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not a site; choose another folder")
    if not (root / "reports").is_dir():
        raise InputError(f"{root}: no reports there; the site is made in a clone of the repository, not from a wheel")
    api.check()
    if notebooks is None:
        notebooks = [*sorted(source.glob("course/[0-9]*.ipynb")), *sorted(source.glob("[0-9]*.ipynb"))]
    draft = out.parent / f".{out.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    with TemporaryDirectory() as work:
        given = {"out": str(Path(work) / "report")} | (parameters or {})
        progress, lessons = Progress(notebooks), []
        for number, path in enumerate(notebooks):
            declared = execution.check_parameters(path, {})
            executed = Path(work) / path.name
            with progress.running(path.stem):
                seconds = execution.execute(path, executed, {name: given[name] for name in given if name in declared})
            progress.done(path.stem, seconds)
            beside = {"previous": notebooks[number - 1] if number else None, "next": (*notebooks, None)[number + 1]}
            node = nbformat.read(executed, as_version=4)
            if path.parent.name == "course":
                lessons.append(lecture.Lesson(path.stem, node, seconds))
                node = lecture.without_answers(lessons[-1])
            _page(node, path, draft, root, beside)
    for name, page in lecture.write(lessons).items():
        path, target = source / "course" / f"{name}.html", draft / "course" / f"{name}.html"
        write_text(target, relink(page, path, target, draft, root))
    _page(nbformat.read(source / "index.ipynb", as_version=4), source / "index.ipynb", draft, root)
    glossary = nbformat.v4.new_markdown_cell(read_text(source / "glossary.md"))
    _page(nbformat.v4.new_notebook(cells=[glossary]), source / "glossary.md", draft, root)
    api.make(draft / "api")
    for name in REPORTS:
        _report(root / "reports" / name, draft)
    (draft / "web").mkdir()
    shutil.copy(root / "web" / "page.webp", draft / "web")  # on the front page
    if reason := live.missing():
        say(f"the live page is left out: {reason}")
    else:
        home = '<nav><a href="../index.html">home</a></nav>'
        live.make(draft / "live", (parameters or {}).get("model", "bundled"), home)
    write_text(draft / MARK, "")
    if problems := broken_links(draft):
        raise InputError(f"{draft}: broken links ({len(problems)}): {'; '.join(problems[:5])}")
    replace_folder(draft, out)
    return out


def _page(node: NotebookNode, path: Path, site: Path, root: Path, beside: dict[str, Path | None] | None = None) -> None:
    """Write a notebook as the page for the repository's file `path`."""
    steps = {
        "home": root / "notebooks" / "index.ipynb",
        **(beside or {}),
        "glossary": root / "notebooks" / "glossary.md",
        "for lecturers": root / "notebooks" / "course" / "lecturer.html",
        "API": root / "api" / "index.html",
    } | ({} if live.missing() else {"ask the model": root / "live" / "index.html"})
    nav = " ".join(f'<a href="{os.path.relpath(to, path.parent)}">{name}</a>' for name, to in steps.items() if to)
    if path.suffix == ".ipynb" and (url := repository_url(root)):
        inside, first = path.relative_to(root).as_posix(), f"there, start with %pip install git+{url}"
        there = url.replace("https://github.com", "https://colab.research.google.com/github")
        nav += f' <a href="{escape(there)}/blob/main/{inside}" title="{escape(first)}">open in Colab</a>'
    html = pages.as_html(node, path.stem, f'<nav class="report" aria-label="site">{nav}</nav>', unfolded=True)
    target = site / page_path(PurePosixPath(path.relative_to(root).as_posix()))
    write_text(target, relink(html, path, target, site, root))


def repository_url(root: Path) -> str | None:
    """The repository's address on GitHub, from `project.urls.Repository` in pyproject.toml; None if there is none."""
    urls = tomllib.loads(read_text(root / "pyproject.toml"))["project"].get("urls", {})
    found = re.fullmatch(r"(https://github\.com/[\w.-]+/[\w.-]+?)(\.git|/)?", urls.get("Repository", ""))
    return found and found[1]


def _report(folder: Path, site: Path) -> None:
    """Copy a report and write its front page, which is not kept in the repository."""
    target = site / "reports" / folder.name
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("notebooks", "index.html"))
    front.write(target)
    page = read_text(target / "index.html")
    write_text(target / "index.html", page.replace("<body>", '<body>\n<nav><a href="../../index.html">home</a></nav>'))
