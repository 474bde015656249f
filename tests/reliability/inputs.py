"""Bad input: what people hand in, made wrong at random and by hand, given to the commands that read it."""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import nbformat

from qalib.report import build
from qalib.utils.files import write_json
from reliability import damage, trial
from reliability.trial import Outcome, Section

# Kind of input: how many in the full form. Each reader below makes one at a time.
FULL = {"SQuAD file": 3000, "SQuAD file, answered": 150, "prediction file": 1500, "config.json": 600, "weights": 900,
        "tokenizer": 200, "model card": 150, "notebook": 200}  # fmt: skip


class Place:
    """A folder with a model, a question set and a place for damaged copies."""

    def __init__(self, folder: Path):
        self.folder, self.here = folder, folder / "here"
        self.dense, self.packed = trial.tiny(folder)
        self.data = trial.asked(folder / "eight.json")
        self.here.mkdir(exist_ok=True)
        self.cut = folder / "cut"
        if not self.cut.exists():
            trial.write_2021(trial.checkpoint.load(self.packed), {0: [2]}, self.cut)

    def clean(self) -> None:
        """Remove what the last input was made of."""
        import shutil

        shutil.rmtree(self.here)
        self.here.mkdir()

    def model(self, origin: Path, leave: str = "") -> Path:
        """A copy of a model folder by links, but for one file."""
        folder = self.here / "model"
        folder.mkdir()
        for path in origin.iterdir():
            if path.name != leave:
                (folder / path.name).hardlink_to(path)
        return folder


# A made input: what it is, the file that is wrong, the command, and what has to come: 2, 0 or None for either.
Made = tuple[str, Path, list, int | None]


def squad_files(place: Place, rng: random.Random, number: int) -> Made:
    """Scored against a prediction file, which needs no model."""
    path, guesses = place.here / "questions.json", write_json(place.here / "predictions.json", {"q0": "one"})
    what, expected = damage.squad(path, rng, number)
    return what, path, ["score", path, guesses], expected


def squad_answered(place: Place, rng: random.Random, number: int) -> Made:
    """Valid files with texts out of every Unicode plane, some of 100,000 characters, answered by a model."""
    path = place.here / "questions.json"
    length = 100_000 if number % 25 == 0 else rng.randint(1, 300)
    damage.odd_texts(path, rng, length)
    command = ["evaluate", "--model", place.packed, "--data", path, "--json"]
    return "100,000 characters" if length == 100_000 else "every Unicode plane", path, command, 0


def predictions(place: Place, rng: random.Random, number: int) -> Made:
    path = place.here / "predictions.json"
    value = {f"q{n}": word for n, word in enumerate("one two red blue".split())}
    what, expected = damage.json_file(path, value, rng, number)
    return what, path, ["score", place.data, path], expected


def configs(place: Place, rng: random.Random, number: int) -> Made:
    origin = rng.choice([place.packed, place.cut, place.dense])
    folder = place.model(origin, "config.json")
    settings = json.loads((origin / "config.json").read_text())
    what, expected = damage.config(folder / "config.json", settings, rng, number)
    return what, folder / "config.json", ["answer", "What is it?", "It is red.", "--model", folder, "--json"], expected


def weights(place: Place, rng: random.Random, number: int) -> Made:
    origin, name = rng.choice(
        [
            (place.packed, "model.packed.safetensors"),
            (place.dense, "model.safetensors"),
            (place.cut, "pytorch_model.bin"),
        ]
    )
    folder = place.model(origin, name)
    what, expected = damage.weights(folder / name, origin / name, rng, number, place.here / "RAN")
    return what, folder / name, ["answer", "What is it?", "It is red.", "--model", folder, "--json"], expected


def tokenizers(place: Place, rng: random.Random, number: int) -> Made:
    name = ("tokenizer.json", "tokenizer_config.json")[number % 2]
    folder = place.model(place.packed, name)
    value = json.loads((place.packed / name).read_text())
    what, _ = damage.json_file(folder / name, value, rng, 100 + number)
    return what, folder, ["answer", "What is it?", "It is red.", "--model", folder, "--json"], None


def cards(place: Place, rng: random.Random, number: int) -> Made:
    path = place.here / "card.md"
    what, expected = damage.card(path, rng, number)
    return what, path, ["audit", "--card", path, "--model", place.packed, "--data", place.data, "--json"], expected


def notebooks(place: Place, rng: random.Random, number: int) -> Made:
    """Read before any is run; a parameter that none has keeps those that are whole from being run."""
    path = place.here / "01_notebook.ipynb"
    what, _ = damage.json_file(path, json.loads((build.NOTEBOOKS / "01_load_model.ipynb").read_text()), rng, 100)
    command = [
        "report",
        "--model",
        place.packed,
        "--data",
        place.data,
        "--out",
        place.here / "report",
        "-p",
        "nosuch=1",
    ]
    return what, path, command, 2


READERS: dict[str, Callable[[Place, random.Random, int], Made]] = {
    "SQuAD file": squad_files, "SQuAD file, answered": squad_answered, "prediction file": predictions,
    "config.json": configs, "weights": weights, "tokenizer": tokenizers, "model card": cards, "notebook": notebooks,
}  # fmt: skip


def complaints(found: Outcome, path: Path, expected: int | None, before: dict, after: dict) -> Iterator[str]:
    """What is wrong with how a command took its input."""
    lines = found.err.splitlines()
    if found.code not in (0, 2) or (expected is not None and found.code != expected):
        yield f"exit code {found.code}"
    if found.code == 2:
        if len(lines) != 1 or not lines[0].startswith("qalib: "):
            yield f"{len(lines)} lines"
        named = str(path.parent) in found.err or (path.suffix == ".ipynb" and "nosuch" in found.err)
        if found.out or not named:
            yield "the file is not named" if not named else "standard output"
    if "Traceback" in found.err:
        yield "a traceback"
    if before != after:
        yield f"written: {', '.join(sorted(after.keys() ^ before.keys()))}"


def one(place: Place, kind: str, number: int, run: Callable[..., Outcome] = trial.call) -> tuple[str, Outcome, list]:
    """Make one input, run the command, and say what came of it."""
    rng = random.Random(f"{trial.SEED} {kind} {number}")
    place.clean()
    what, path, command, expected = READERS[kind](place, rng, number)
    before = trial.files(place.here)
    with mock.patch.object(build, "NOTEBOOKS", place.here):
        found = run(*command)
    return what, found, list(complaints(found, path, expected, before, trial.files(place.here)))


def fuzz(counts: dict[str, int] | None = None) -> Section:
    """Give the commands so many bad inputs of each kind."""
    section = Section(
        "Bad input", "Each input is a valid file made wrong, by hand where a row of the second column says so and at "
        "random otherwise, read through the command line's entry point.",
        ("input", "tried", "refused", "accepted", "faults", "ways it was made wrong"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        for kind, count in (counts or FULL).items():
            ways, codes, faults = Counter(), Counter(), 0
            for number in range(count):
                what, found, wrong = one(place, kind, number)
                ways[what] += 1
                codes[found.code] += 1
                faults += bool(wrong)
                section.expect(not wrong, f"{kind} {number} ({what}): {'; '.join(wrong)}: {found.err.strip()[-400:]}")
            section.row(kind, count, codes[2], codes[0], faults, ", ".join(f"{w} ({n})" for w, n in ways.most_common()))
    section.notes += [
        "refused: exit code 2, nothing on standard output, one line on standard error that begins with `qalib:` and "
        "names the file (of a model the one that is wrong, or the one that does not go with it), no traceback, no file "
        "made or changed",
        "accepted: exit code 0; what was made wrong does not matter to the command, as a title that is a number",
        "fault: anything else, or the wrong one of the two where only one can be right",
        f"random inputs are drawn with seed {trial.SEED} and the same in each run",
    ]
    return section


def processes(count: int = 8) -> Section:
    """The same through processes of their own, with and without --debug, and notebooks whose cells fail."""
    section = Section(
        "Bad input through processes", "A few of the inputs that are refused, given to a `qalib` process of its own; "
        "the same with `--debug`; notebooks that break while they run.", ("input", "tried", "as expected", "expected"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        kinds = ("SQuAD file", "prediction file", "config.json", "weights")
        good = debugged = 0
        for number in range(count):
            kind = kinds[number % len(kinds)]
            _, found, wrong = one(place, kind, number, lambda *a: trial.finish(trial.start(*a)))
            good += section.expect(not wrong, f"{kind} {number}: {wrong}: {found.err[-400:]}")
            _, found, _ = one(place, kind, number, lambda *a: trial.call("--debug", *a))
            debugged += section.expect(
                found.code != 2 or "Traceback" in found.err, f"{kind} {number} --debug: {found.err[-400:]}"
            )
        section.row("a process", count, good, "as above")
        section.row("with --debug", count, debugged, "the same line, after a traceback")
        cells = {"raises": "1 / 0", "does not parse": "def", "kills its kernel": "import os; os._exit(1)"}
        good = 0
        for number, (what, source) in enumerate(cells.items()):
            if number < count:
                good += section.expect(_stops(place, source), f"a notebook that {what}")
        section.row(
            "a notebook with a bad cell",
            min(count, len(cells)),
            good,
            "exit code 1, a line that names notebook, cell and error; no report under the final name",
        )
    return section


def _stops(place: Place, source: str) -> bool:
    place.clean()
    cells = [
        nbformat.v4.new_code_cell("out = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), place.here / "01_bad.ipynb")
    out = place.here / "report"
    with mock.patch.object(build, "NOTEBOOKS", place.here):
        found = trial.call("report", "--model", place.packed, "--data", place.data, "--out", out)
    last = found.err.splitlines()[-1]
    return found.code == 1 and last.startswith("qalib: 01_bad.ipynb, ") and "Traceback" not in last and not out.exists()
