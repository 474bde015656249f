"""JupyterLab as `make lab` opens it, driven in headless Chromium: the index, its links, a slider and an exercise by
keyboard alone."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from browsers import chromium
from conftest import ROOT

from qalib.teaching import exercises
from qalib.utils import paths

SHARED = 3  # times as long as promised may a redraw take, besides what others take of the processor
REDRAW = 0.3  # seconds
AGAIN = 20  # seconds after which a key that did nothing is pressed again
SECONDS = 300  # that anything else may take at most, on a machine that is busy
SEEN = ".jp-NotebookPanel:not(.lm-mod-hidden)"
ACTIVE = f"{SEEN} .jp-Cell.jp-mod-active"
ENTER, ESCAPE, SHIFT, CONTROL = "\ue007", "\ue00c", "\ue008", "\ue009"
TAB, LEFT, RIGHT = "\ue004", "\ue012", "\ue014"
WATCH = """
const area = document.querySelector(arguments[0]), text = () => area.querySelector('img')?.alt;
let last = text();
window.redraws = [];
document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
new MutationObserver(() => {
  if (text() && text() !== last) { last = text(); window.redraws.push(performance.now() - window.pressed); }
}).observe(area, {childList: true, subtree: true, attributes: true});
"""  # milliseconds from a key to another figure


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the repository has, as copies: what is run in a notebook is saved."""
    made = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "reports/bundled-dev-v1.1/card"):
        shutil.copytree(ROOT / name, made / name)
    exercises.write(made / "exercises", made / "notebooks" / "course")
    return made


@pytest.fixture(scope="module")
def address(folder):
    """Where JupyterLab answers that was begun by the command of `make lab`, there and with its settings apart."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    command = shlex.split(re.search(r"^\t\$\(BIN\)/jupyter lab (.+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command += ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=told", "--log-level=ERROR"]
    places = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    places |= {f"JUPYTERLAB_{kind}_DIR": str(folder / kind.lower()) for kind in ("SETTINGS", "WORKSPACES")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    running = subprocess.Popen([sys.executable, "-m", "jupyterlab", *command], cwd=folder,
                               env=os.environ | places | {"PYTHONPATH": path})  # fmt: skip
    opens = next(argument for argument in command if argument.startswith("--LabApp.default_url=")).partition("=")[2]
    try:
        until(lambda: running.poll() is None and _listens(port))
        yield f"http://127.0.0.1:{port}", opens
    finally:
        running.terminate()
        running.wait(30)


def _listens(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def until(true, seconds=SECONDS, step=0.1):
    """Wait for a function to return what is true; returns that."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(step)
    return found


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        opened.set_window_size(1300, 1000)
        yield opened


def press(browser, *keys, held=()):
    """Type on the keyboard, wherever the focus is, while the keys `held` are down."""
    from selenium.webdriver import ActionChains

    chain = ActionChains(browser)
    for key in held:
        chain.key_down(key)
    chain.send_keys(*keys)
    for key in held:
        chain.key_up(key)
    chain.perform()


def run(browser):
    """Run the active cell and wait for its number; again where the kernel was not there yet."""
    before, pressed = prompt(browser), -AGAIN

    def ran():
        nonlocal pressed
        if time.monotonic() - pressed > AGAIN and "*" not in prompt(browser):
            press(browser, ENTER, held=(CONTROL,))
            pressed = time.monotonic()
        return re.search(r"\d", prompt(browser)) and prompt(browser) != before

    until(ran)


def prompt(browser):
    return browser.execute_script(f"return document.querySelector('{ACTIVE} .jp-InputPrompt').textContent")


def slowed():
    """How many times longer work takes now than on an idle processor."""
    began, spent = time.perf_counter(), time.process_time()
    while time.process_time() - spent < 0.3:
        pass
    return (time.perf_counter() - began) / 0.3


def go(browser, place):
    """Move down to a cell, by its number from 0, or up; again where a key was not heard."""

    def there():
        here = browser.execute_script(f"return Number(document.querySelector('{ACTIVE}').dataset.windowedListIndex)")
        if here != place:
            press(browser, "j" if here < place else "k")
        return here == place

    until(there)


def shown(browser, path, address):
    """Open a notebook, wait for its kernel, with the focus on its first cell."""
    browser.get(f"{address[0]}/lab/workspaces/own/tree/{path}?token=told")  # nothing else is open there
    until(lambda: browser.find_elements("css selector", f"{SEEN} .jp-Notebook-ExecutionIndicator[data-status=idle]"))
    until(lambda: browser.execute_script(f"return document.activeElement === document.querySelector('{ACTIVE}')"))


def output(browser, what):
    return browser.execute_script(f"return document.querySelector('{ACTIVE} .jp-OutputArea {what}')?.outerHTML")


def test_the_index_is_opened_and_its_links_lead_somewhere(browser, address):
    assert address[1] == "/lab/tree/notebooks/index.ipynb"
    browser.get(f"{address[0]}/?token=told")  # leads to what is opened
    links = until(lambda: browser.execute_script(
        "const found = [...document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown a')].map(a => a.href)"
        ".filter(href => !href.includes('#')); return found.some(h => h.includes('README.md')) && found"))  # fmt: skip
    assert "/notebooks/index.ipynb" in browser.current_url or "index.ipynb" in browser.title
    statuses = browser.execute_async_script(
        "Promise.all(arguments[0].map(href => fetch(href).then(r => r.status))).then(arguments[1])", links
    )
    assert len(links) > 20 and set(statuses) == {200}, dict(zip(links, statuses, strict=True))
    assert {"/files/reports/", "/files/notebooks/course/"} <= {m[0] for h in links for m in re.finditer(
        "/files/(reports|notebooks/course)/", h)}  # fmt: skip
    missing = browser.execute_async_script(
        "fetch(arguments[0].replace('glossary', 'no-such-page')).then(r => arguments[1](r.status))",
        next(href for href in links if "glossary" in href),
    )
    assert missing == 404


def test_a_slider_and_an_exercise_by_keyboard_alone(browser, address):
    """The first notebook of the students': cells are run, a slider is moved, an exercise is solved."""
    shown(browser, "exercises/01_weights.ipynb", address)
    for place in (1, 2, 4):  # parameters, imports, the first figure
        go(browser, place)
        run(browser)
    until(lambda: output(browser, "[role=slider]") and output(browser, "img"))
    for _ in range(6):
        press(browser, TAB)
        if browser.execute_script("return document.activeElement.getAttribute('role')") == "slider":
            break
    names = []
    browser.execute_script(WATCH, f"{ACTIVE} .jp-OutputArea")
    for key in (RIGHT, RIGHT, LEFT, RIGHT, LEFT):
        press(browser, key)
        until(lambda: browser.execute_script("return window.redraws.length") > len(names), step=0.02)
        names.append(re.search('alt="([^:]+):', output(browser, "img"))[1])
        labels = browser.execute_script(
            f"return [...document.querySelectorAll('{ACTIVE} .jp-OutputArea .widget-label')]"
            ".map(l => [l.textContent, l.scrollWidth <= l.clientWidth])"
        )
        assert labels == [["matrix", True], [names[-1], True]]
    first = ["key", "value", "key", "value", "key"]
    assert names == [f"layer 2, {kind}" for kind in first]
    times = [milliseconds / 1000 for milliseconds in browser.execute_script("return window.redraws")]
    print("seconds to a redraw:", times, "slowed by others:", slowed())
    assert min(times) < SHARED * REDRAW * slowed(), times
    until(lambda: back(browser))
    press(browser, ESCAPE)
    exercise = next(n for n, c in enumerate(students().cells) if "exercise" in c.metadata.get("tags", []))
    go(browser, exercise - 1)  # what stands between takes long
    run(browser)
    for typed, said in (("density = weight > 0", "Not yet"), ("density = (weight != 0).double().mean()", "Right")):
        go(browser, exercise)
        press(browser, ENTER)
        until(lambda: browser.execute_script("return document.activeElement.classList.contains('cm-content')"))
        press(browser, "a", held=(CONTROL,))
        press(browser, typed)
        run(browser)
        go(browser, exercise + 1)
        run(browser)
        until(lambda said=said: said in (output(browser, ".jp-RenderedMarkdown") or ""))


def back(browser):
    """From what a cell shows back to the cell, or its editor, by the tabulator."""
    press(browser, TAB, held=(SHIFT,))
    return browser.execute_script("return document.activeElement.matches('.jp-Cell, .cm-content')")


def students():
    return exercises.student(nbformat.read(paths.COURSE / "01_weights.ipynb", as_version=4))
