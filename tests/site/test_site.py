import json
import re
import shutil
import time

import nbformat
import pytest
from browsers import chromium
from conftest import ROOT

from qalib.report import pages
from qalib.site import build, links
from qalib.utils import paths
from qalib.utils.errors import InputError

TINY = {"questions": 4, "keep_fractions": [0.9, 0.6], "batch": 1, "length": 16, "repeats": 1, "layer": 1, "steps": 2,
        "train": 4, "counts": [2], "seeds": 2, "measured": 4, "lots": 20}  # fmt: skip
MOST_BYTES = 1.5e6  # of a page
TEACHING = sorted(paths.COURSE.glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def made(packed_folder, asked_file, tmp_path_factory):
    """The site with the teaching notebooks, each run headlessly on the tiny model, once."""
    pytest.importorskip("pdoc", reason="pdoc, which makes the API reference, is not installed")
    given = TINY | {"model": str(packed_folder), "audited": str(packed_folder), "data": str(asked_file)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "broken_links", lambda folder: [])  # the pages of the other notebooks are not there
        return build.make(tmp_path_factory.mktemp("site") / "site", TEACHING, given)


def test_every_teaching_notebook_ran_and_shows_figures_and_no_widgets(made):
    for path in TEACHING:
        page = (made / "course" / f"{path.stem}.html").read_text()
        checks = [c for c in nbformat.read(path, as_version=4).cells if "check" in c.metadata.get("tags", [])]
        answers = (made / "course" / f"{path.stem}_answers.html").read_text()
        assert answers.count("<strong>Right:</strong>") == len(checks) == page.count(">The answer<"), path.name
        assert "<strong>Right:</strong>" not in page, path.name
        figures = re.findall(r'<img alt="([^"]+)" src="data:image/svg', page)
        figures += re.findall(r'<img alt="([^"]+)" src="data:image/webp;base64,[^"]+"/?>', page)  # shown first
        assert len(figures) >= 2 and all(len(text) > 20 for text in figures), path.name
        slides = (made / "course" / f"{path.stem}_slides.html").read_text()
        assert slides.count("<section") == len(figures) + 2 or path.stem.startswith("08"), path.name
        assert "widget-view" not in page, path.name
        assert 'media="(prefers-color-scheme: dark)"' in page and "width=device-width" in page


def test_pages_are_light_and_have_titles(made):
    pages = sorted(made.glob("course/*.html"))
    assert len(pages) == 3 * len(TEACHING) + 1
    assert {path.name: path.stat().st_size for path in pages if path.stat().st_size >= MOST_BYTES} == {}
    titles = [re.search(r"<title>(.+?)</title>", path.read_text())[1] for path in made.rglob("course/*.html")]
    assert len(set(titles)) == len(titles)


def test_links_lead_to_pages_and_names(made):
    absent = {f"{path.stem}.html" for path in ROOT.glob("notebooks/[0-9]*.ipynb")}
    others = [problem for problem in links.broken_links(made) if problem.split("/")[-1].split(" ")[-1] not in absent]
    assert others == [] and len(links.broken_links(made)) >= len(absent)
    assert (made / build.MARK).exists() and (made / "reports" / build.REPORTS[0] / "index.html").exists()
    assert 'href="api/qalib/model/blocks.html#split"' in (made / "glossary.html").read_text()
    assert (made / "web" / "page.webp").exists() and 'src="web/page.webp"' in (made / "index.html").read_text()
    assert 'href="../glossary.html"' in (made / "course" / "01_weights.html").read_text()


def test_a_link_to_a_name_leads_to_its_place_in_the_reference(tmp_path):
    page = '<body><a href="../qalib/runtimes/compact.py"><code>compact.shrink</code></a>'
    glossary = ROOT / "notebooks" / "glossary.md"
    turned = links.relink(page, glossary, tmp_path / "glossary.html", tmp_path, ROOT)
    assert 'href="api/qalib/runtimes/compact.html#shrink"' in turned


@pytest.mark.parametrize(
    "urls, found",
    [
        ('Repository = "https://github.com/someone/qalib.git"', "https://github.com/someone/qalib"),
        ('Repository = "https://github.com/someone/qalib"', "https://github.com/someone/qalib"),
        ('Repository = "https://example.org/someone/qalib"', None),
        ("", None),
    ],
)
def test_notebooks_open_in_colab_where_the_repository_is_known(tmp_path, urls, found):
    (tmp_path / "pyproject.toml").write_text(f"[project]\n[project.urls]\n{urls}\n")
    assert build.repository_url(tmp_path) == found
    notebook = shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks") / "course" / "01_weights.ipynb"
    build._page(nbformat.read(notebook, as_version=4), notebook, tmp_path / "site", tmp_path)
    page = (tmp_path / "site" / "course" / "01_weights.html").read_text()
    address = "https://colab.research.google.com/github/someone/qalib/blob/main/notebooks/course/01_weights.ipynb"
    assert (f'href="{address}"' in page) == bool(found) == ("open in Colab" in page)


def test_what_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<body id="x"><a href="b.html#y">b</a><a href="#x">x</a><a href="c.html">c</a>')
    (tmp_path / "b.html").write_text('<body><img src="https://example.org/a.png"><a href="https://example.org">e</a>')
    assert links.broken_links(tmp_path) == [
        "a.html: b.html#y", "a.html: c.html", "b.html fetches https://example.org/a.png",
    ]  # fmt: skip


def test_only_a_site_is_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already and is not a site"):
        build.make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_widget_leaves_no_trace_in_a_page():
    view = {pages.WIDGET: {"model_id": "1"}, "text/plain": "HBox(children=())"}
    outputs = [nbformat.v4.new_output("display_data", data=view),
               nbformat.v4.new_output("display_data", data={"text/plain": "the figure"})]  # fmt: skip
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explore()", outputs=outputs)])
    page = pages.as_html(node, "a name", "<nav>here</nav>")
    assert "HBox" not in page and "the figure" in page and "<nav>here</nav>" in page and "<title>a name" in page


@pytest.fixture(scope="module")
def browser():
    with chromium({"browser": "ALL", "performance": "ALL"}) as opened:
        yield opened


def test_the_site_in_a_browser(made, browser):
    pages = ["index.html", "glossary.html", "api/qalib/model/blocks.html", f"reports/{build.REPORTS[0]}/index.html"]
    pages += [f"course/{path.stem}{kind}.html" for path in TEACHING for kind in ("", "_slides", "_answers")]
    pages += ["course/lecturer.html"]
    bare = [*pages[:3], *(name for name in pages if name.endswith(("_answers.html", "lecturer.html")))]  # of figures
    for name in pages:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True})  # fmt: skip
        shades = []
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            browser.get((made / name).as_uri())
            time.sleep(0.2)
            colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            shades.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
        assert shades[0] > 600 > 300 > shades[1], f"{name}: {shades}"
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 390, f"{name} is {wide} pixels wide on a phone"
        broken = browser.execute_script("return [...document.images].filter(i => !i.naturalWidth).length")
        pictures = browser.execute_script("return document.images.length + document.querySelectorAll('svg').length")
        assert broken == 0 and (pictures > 1 or name in bare), name
        assert browser.get_log("browser") == [], name
        sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
        assert urls and all(url.startswith(("file:", "data:")) for url in urls), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(made, browser, scheme):
    """Of accessibility, as axe-core sees it, on a phone; the course's pages are made alike, so that three will do."""
    axe = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not there: npm ci --prefix web")
    names = ["index.html", "glossary.html", "api/index.html", "api/qalib/model/blocks.html", "course/lecturer.html"]
    names += [f"reports/{build.REPORTS[0]}/index.html", "course/03_speed_answers.html"]
    names += [f"course/{name}.html" for name in ("01_weights", "07_model_card", "12_int8", "12_int8_slides")]
    found = {}
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for name in names:
        browser.get((made / name).as_uri())
        browser.execute_script(axe.read_text())
        seen = browser.execute_async_script(
            "axe.run(document, {resultTypes: ['violations']}).then((r) => arguments[0](r.violations.map("
            "(v) => [v.impact, v.id, v.nodes[0].html])))"
        )
        found |= {f"{name}: {rule}": html for impact, rule, html in seen if impact in ("serious", "critical")}
    assert found == {}


def test_a_slider_is_moved_by_the_keyboard(made, browser):
    browser.get((made / "course" / "04_movement.html").as_uri())
    (slider,) = browser.find_elements("css selector", ".frames input")
    seen = []
    for key in ("", "\ue014", "\ue014", "\ue012"):  # the right arrow, and the left one
        slider.send_keys(key)
        shown = [i for i in browser.find_elements("css selector", ".frames img") if i.is_displayed()]
        (said,) = [image.get_attribute("alt").split(" step")[0] for image in shown]
        label = browser.find_element("css selector", ".frames span").text
        assert said == f"After {slider.get_attribute('aria-valuetext')}" == f"After {label}"
        seen.append(label)
    assert seen == ["4", "6", "8", "6"]


def test_the_repository_says_how(made):
    targets = (ROOT / "Makefile").read_text()
    assert "-m qalib.site site" in targets and "-m qalib.teaching.exercises exercises" in targets


def test_raised_figures_stay_raised():
    """nbconvert's own filter, which embeds images, makes 10<sup></sup>6 of it."""
    source = "# Sizes\n\nMB are 10<sup>6</sup> bytes, <img src='data:image/png;base64,AA' alt='drawn'> x<sub>q</sub>"
    page = pages.as_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)]), "sizes", "")
    assert "10<sup>6</sup> bytes" in page and "x<sub>q</sub>" in page and 'alt="drawn"' in page
