"""The API reference: one page per module, made by pdoc from the docstrings, with the source of every name."""

import importlib.util
import pkgutil
import re
import warnings
from pathlib import Path

from qalib.utils.errors import InputError
from qalib.utils.files import write_text
from qalib.utils.paths import PACKAGE, TEMPLATES

COMPILED = ("qalib.__main__", "qalib.runtimes.cpu._block_sparse", "qalib.runtimes.gpu.triton_kernel")  # no API


def check() -> None:
    """Raises InputError if pdoc is not installed."""
    if importlib.util.find_spec("pdoc") is None:
        raise InputError("the API reference: not installed: pdoc (make site installs it)")


def make(out: Path) -> Path:
    """Write the pages to a folder: an index, a search, and pages such as `qalib/model/blocks.html`, anchor `#split`."""
    check()
    import pdoc
    import pdoc.render

    parts = [f"qalib.{part.name}" for part in pkgutil.iter_modules([str(PACKAGE)]) if not part.name.startswith("_")]
    pdoc.render.configure(template_directory=TEMPLATES / "api", favicon="data:,")
    with warnings.catch_warnings(action="ignore"):  # about COMPILED
        pdoc.pdoc(*parts, *(f"!{name}" for name in COMPILED), output_directory=out)
    for page in out.rglob("*.html"):  # pdoc's links at names are empty
        text = page.read_text(encoding="utf-8")
        named = re.sub(r'class="headerlink" (href="#([^"]+)")', r'class="headerlink" aria-label="link to \2" \1', text)
        write_text(page, named)
    return out
