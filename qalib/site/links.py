"""Links of the site: from a repository file to its page, and the check that every link leads somewhere."""

import os
import re
from pathlib import Path, PurePosixPath

LINK = re.compile(r'(<[a-z][^<>]*\s(?:href|src))="([^"]+)"')


def page_path(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository goes in the site.

    >>> str(page_path(PurePosixPath("notebooks/course/01_weights.ipynb")))
    'course/01_weights.html'
    >>> str(page_path(PurePosixPath("qalib/model/blocks.py")))
    'api/qalib/model/blocks.html'
    >>> str(page_path(PurePosixPath("reports/bundled-dev-v1.1/card/README.md")))
    'reports/bundled-dev-v1.1/index.html'
    """
    if path.match("reports/*/card/README.md"):  # leads to the report's front page
        return path.parents[1] / "index.html"
    if path.suffix in (".ipynb", ".md", ".py"):
        path = path.with_suffix(".html")
    if path.parts[0] == "notebooks":
        return path.relative_to("notebooks")
    return PurePosixPath("api", path) if path.parts[0] == "qalib" else path


def broken_links(site: Path) -> list[str]:
    """The broken links of a site, and anything its pages would fetch from elsewhere."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    names = {path: {*re.findall(r'id="([^"]+)"', text)} for path, text in pages.items()}
    found = []
    for path, text in pages.items():
        for fetched in re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="((?:https?:)?//[^"]+)"', text):
            found.append(f"{path.relative_to(site)} fetches {fetched}")
        for _, link in LINK.findall(re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)):
            name, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link) or (path.name == "density_chart.html"):
                continue
            target = Path(os.path.normpath(path.parent / name)) if name else path
            if not target.is_file() or (anchor and anchor not in names.get(target, ())):
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def relink(html: str, path: Path, target: Path, site: Path, root: Path) -> str:
    """The page for the file `path`, to be written to `target`, with its links turned into links between pages.

    A link to a source file whose text is a name in that file (`blocks.split`) leads to that name.
    """

    def turn(match: re.Match) -> str:
        name, _, anchor = match[2].partition("#")
        if re.match(r"[a-z]+:|#|//", match[2]):
            return match[0]
        inside = Path(os.path.normpath(path.parent / name)).relative_to(root)
        to = os.path.relpath(site / page_path(PurePosixPath(inside.as_posix())), target.parent)
        return f'{match[1]}="{PurePosixPath(to)}{"#" if anchor else ""}{anchor}"'

    body = re.sub(r"(<body.*)", lambda m: LINK.sub(turn, m[1]), html, flags=re.DOTALL)
    return re.sub(r'(href="[^"#]*api/[\w/]+\.html)("[^>]*><code>\w+\.)(\w+)', r"\1#\3\2\3", body)
