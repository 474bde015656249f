"""Untrusted files: nothing in them is executed, and what looks like HTML is text on every page."""

import re
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

from qalib.report import build, execution, front
from qalib.report import pages as html_pages
from qalib.report.inputs import CardInputs
from qalib.utils.files import read_json, write_json, write_text
from reliability import determinism, trial
from reliability.damage import CARD
from reliability.trial import Section

MARK = "evil4711"
HOSTILE = f"<script>{MARK}()</script><img src=x onerror={MARK}()>"
NAME = f"<img src=x onerror={MARK}()>"  # a folder's name can hold no slash


class Tags(HTMLParser):
    """Collects what the mark has become: tags whose attributes hold it, scripts whose code does, and plain text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.active, self.texts, self.script = [], 0, False

    def handle_starttag(self, tag, attrs):
        self.script = tag == "script"
        active = [name for name, value in attrs if MARK in (value or "") and (name.startswith("on") or tag == "img")]
        self.active += [f"<{tag} {name}=...>" for name in active]

    def handle_endtag(self, tag):
        self.script = False

    def handle_data(self, data):
        if self.script and re.search(rf"^\s*{MARK}\(", data):
            self.active.append("<script>")
        self.texts += data.count(MARK)


def look(path: Path) -> tuple[list[str], int]:
    """What of the mark is active in a page or picture, and how often it stands there as text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".svg":
        tags = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()]
        return [f"<{tag}>" for tag in tags if tag in ("script", "img", "foreignObject")], text.count(MARK)
    parser = Tags()
    parser.feed(text)
    return parser.active, parser.texts


def _hostile_inputs(place: Path) -> tuple[Path, Path, Path]:
    """A model folder, a question set and a card with the mark wherever a text can be."""
    _, packed = trial.tiny(place)
    model = shutil.copytree(packed, place / NAME)
    meta = dict.fromkeys(("license", "notice", "base_model", "method"), HOSTILE)
    write_json(model / "model_meta.json", meta | {"teacher": {"name": HOSTILE}, "data": {"name": HOSTILE}})
    value = trial.questions()
    for paragraph in value["data"][0]["paragraphs"]:
        entry = paragraph["qas"][0]
        paragraph["context"] += HOSTILE
        entry["question"] += HOSTILE
        entry["id"] += HOSTILE
        entry["answers"].append({"text": HOSTILE, "answer_start": paragraph["context"].index(HOSTILE)})
    data = write_json(place / f"{NAME}.json", value)
    return model, data, write_text(place / "card.md", CARD.replace("GPUs: 1", f"GPUs: {HOSTILE}"))


def pages() -> Section:
    """A whole report made of hostile texts; every page and picture of it is looked through."""
    section = Section(
        "HTML in what is handed in", f"`qalib report` where the model's folder and file of questions are called "
        f"`{NAME}`, and `{HOSTILE}` stands in contexts, questions, answers, ids, the model's statements and a card.",
        ("page", "stands there as text", "active"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model, data, card = _hostile_inputs(place)
        command = determinism.command(place, place / "out", {"card": card})
        command[command.index("--model") + 1], command[command.index("--data") + 1] = model, data
        ended = trial.finish(trial.start(*command))
        if section.expect(ended.code == 0, f"the report ends with {ended.code}: {ended.err[-800:]}"):
            _look_through(section, place / "out")
    return section


def _look_through(section: Section, out: Path) -> None:
    texts, pictures = 0, 0
    for path in sorted([*out.rglob("*.html"), *out.rglob("*.svg")]):
        active, found = look(path)
        section.expect(not active, f"{path.name}: {active}")
        texts += found
        if path.suffix == ".svg":
            pictures += 1
        else:
            section.row(str(path.relative_to(out)), found, ", ".join(active) or "nothing")
    section.row(f"{pictures} figures (SVG)", "drawn", "nothing" if not section.failed else "see below")
    section.expect(texts > 10, f"the mark stands on the pages only {texts} times: it was not tried")


def card_page() -> Section:
    """The page of the card and the index, with the mark in place of every text among the numbers of a kept report."""
    section = Section("HTML in a card", "", ("page", "stands there as text", "active"))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        out = shutil.copytree(trial.ROOT / "reports" / "bundled-dev-v1.1", place / "out")
        for folder in ("figures", "card"):
            (out / folder / "density_chart.html").write_text("")
        kept = read_json(out / "results.json")
        inputs = {field.name for field in fields(CardInputs)}
        for absent in sorted(inputs - {number["name"] for number in kept["numbers"]}):  # the report is older
            kept["numbers"].append({"name": absent, "value": HOSTILE, "unit": "text", "definition": "", "source": "-"})
        for number in kept["numbers"]:
            if isinstance(number["value"], str):
                number["value"] = HOSTILE
            number["definition"] += HOSTILE
        write_json(out / "results.json", kept)
        page = place / "card.ipynb"
        execution.execute(build.NOTEBOOKS / "05_model_card.ipynb", page, {"out": str(out)})
        (out / "notebooks").mkdir(exist_ok=True)  # an ignored folder of a report made there
        html_pages.render_html(page, out / "notebooks" / "05_model_card.html")
        manifest = read_json(out / "manifest.json")
        manifest["model"]["name"] = HOSTILE
        write_json(out / "manifest.json", manifest)
        write_text(out / "index.html", front.index(out))
        _look_through(section, out)
    return section


def code() -> Section:
    """Code that a model's folder names or brings along, and where the package speaks of it."""
    section = Section(
        "Code in what is handed in", "Model folders that name code of their own or on the hub, loaded and asked; "
        "pickles that run code are counted under Bad input.", ("what", "found"),
    )  # fmt: skip
    given = re.compile(r"trust_remote_code(?!=False\b)")
    loose = [path.name for path in (trial.ROOT / "qalib").rglob("*.py") if given.search(path.read_text())]
    notebooks = [
        path.name for path in (trial.ROOT / "notebooks").rglob("*.ipynb") if "trust_remote_code" in path.read_text()
    ]
    section.row("files where `trust_remote_code` is other than False", ", ".join([*loose, *notebooks]) or "none")
    section.expect(not loose + notebooks, f"trust_remote_code in {loose + notebooks}")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        _, packed = trial.tiny(place)
        brought = f"open({str(place / 'RAN')!r}, 'w')\nclass Own: pass\n"
        settings = {"auto_map": dict.fromkeys(("AutoConfig", "AutoTokenizer", "AutoModel"), "own.Own"),
                    "_attn_implementation": "org/kernel", "attn_implementation": "org/kernel"}  # fmt: skip
        for changed in ("config.json", "tokenizer_config.json"):
            folder = shutil.copytree(packed, place / changed)
            (folder / "own.py").write_text(brought)
            more = {"tokenizer_class": "Own"} if "token" in changed else {}
            write_json(folder / changed, read_json(folder / changed) | settings | more)
            found = trial.call("answer", "What is it?", "It is red.", "--model", folder)
            ran = (place / "RAN").exists()
            section.row(f"code of its own named in {changed}", f"exit code {found.code}, {'RUN' if ran else 'not run'}")
            section.expect(not ran and found.code in (0, 2), f"{changed}: {found}")
    return section
