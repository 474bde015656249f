"""Pages: executed notebooks, reports and comparisons as self-contained HTML."""

import re
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from qalib.report import card
from qalib.utils import quantity
from qalib.utils.files import write_text
from qalib.utils.paths import TEMPLATES

WIDGET = "application/vnd.jupyter.widget-view+json"


def render_html(notebook: Path, out: Path) -> str:
    """Write an executed notebook as a page of the report (`as_html`); returns the notebook's title."""
    node = nbformat.read(notebook, as_version=4)
    write_text(
        out, as_html(node, notebook.stem, '<nav class="report"><a href="../index.html">&larr; the report</a></nav>')
    )
    return node.metadata["title"]


def as_html(node: nbformat.NotebookNode, name: str, nav: str, unfolded: bool = False) -> str:
    """An executed notebook as one self-contained page with foldable code and `nav` (HTML) at its top.

    All code starts folded; if `unfolded`, only that of cells tagged `solution`. Progress bars and widgets, which would
    be dead, are left out. The notebook's title, its first heading or else `name`, is put into its metadata.
    """
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", ())]
    node.metadata.pop("widgets", None)
    heading = next((re.match(r"#\s+(.+)", c.source) for c in node.cells if c.cell_type == "markdown"), None)
    node.metadata["title"] = heading.group(1).strip() if heading else name
    exporter = _Exporter(template_name="notebook_html", extra_template_basedirs=[str(TEMPLATES)], embed_images=True)
    return exporter.from_notebook_node(node, resources={"nav": nav, "unfolded": unfolded})[0]


class _Renderer(IPythonRenderer):
    """nbconvert's, which parses every inline tag by itself to embed images, and so closes it at once: <sup></sup>2."""

    def inline_html(self, html: str) -> str:
        return super().inline_html(html) if html.startswith("<img") else html


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: jinja2.runtime.Context, source: str) -> str:
        """Markdown as HTML, with embedded images."""
        renderer = _Renderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=self.embed_images,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
            exclude_anchor_links=self.exclude_anchor_links,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def comparison(table: pd.DataFrame, about: dict[str, Any], not_drawn: str | None = None) -> str:
    """The page of a comparison (`comparison.table`); `about` is its manifest, `not_drawn` why it has no figure."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    reported = sum(row["report"] is not None for row in rows)
    counts = {"reported": reported, "failed": len(rows) - reported}
    title = f"{len(rows)} models compared"
    return render("comparison.html.j2", title=title, rows=rows, about=about, not_drawn=not_drawn, **counts)


def render(template: str, **values: Any) -> str:
    """A template filled in; values are escaped unless they are Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=True
    )
    environment.filters |= {"show": card.show, "plain_number": plain_number, "words": quantity.words}
    return environment.get_template(template).render(**values)


def plain_number(number: quantity.Number) -> str:
    """A number without its unit, at a readable precision."""
    if number.value is None:
        return "not measured"
    return f"{number.value:,.4g}" if isinstance(number.value, float) and abs(number.value) < 1e4 else (
        f"{number.value:,}" if not isinstance(number.value, str | bool) else str(number.value)
    )  # fmt: skip
