"""Attacks on what surrounds a model: interruptions, links, pipes, hostile tokenizers, huge texts and batches."""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from qalib import pipeline
from qalib.cli import commands
from qalib.model import checkpoint
from qalib.qa.windows import windows
from qalib.utils.files import read_json, write_json
from reliability import trial
from reliability.trial import Section

REPORT = trial.ROOT / "reports" / "bundled-dev-v1.1"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
GENERAL = "PreTrainedTokenizerFast"  # takes all of tokenizer.json


def interrupted(counts: dict[str, int] | None = None) -> Section:
    """Interrupt commands that write at random moments: all of the output is there afterwards, or nothing."""
    section = Section(
        "Interrupted at random moments", "SIGINT or SIGTERM between the start of the work and its usual end, in a "
        "process that has loaded its libraries.", ("command", "undisturbed run", "interruptions", "left afterwards"),
    )  # fmt: skip
    rng = random.Random(trial.SEED)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        dense, packed = trial.tiny(place)
        out = place / "out" / "final"
        given = {
            "qalib export --format packed": ["export", "--model", dense, "--out", out, "--format", "packed"],
            "qalib export": ["export", "--model", packed, "--out", out],
            "qalib sparsity --out": ["sparsity", "--model", packed, "--out", out],
            "qalib push --dry-run": ["push", REPORT, "me/model", "--out", out, "--dry-run"],
        }
        for command, count in (counts or dict.fromkeys(given, 30)).items():
            _interrupt(section, command, given[command], out.parent, count, rng)
    section.notes.append("expected: exit code 130 or 143 and one line, or 0 where all was done; no hidden file is left")
    return section


def _interrupt(section: Section, command: str, given: list, folder: Path, count: int, rng: random.Random) -> None:
    began = time.perf_counter()
    code, said = _forked(given, folder, None)
    seconds, whole, states = time.perf_counter() - began, set(trial.files(folder)), Counter()
    if not section.expect(code == 0, f"{command}: {said[-400:]}"):
        return
    for number in range(count):
        code, said = _forked(given, folder, (rng.uniform(0.05, 1) * seconds, rng.choice(SIGNALS)))
        left = set(trial.files(folder))
        state = "all of it" if left == whole else "nothing" if not left else "a part"
        states[state] += 1
        in_order = code == 0 or (code in (130, 143) and said.strip().splitlines()[-1].startswith("qalib: interrupted"))
        section.expect(in_order and state != "a part", f"{command} {number}: {code}, {sorted(left)}, {said[-400:]}")
    shown = ", ".join(f"{state} ({number})" for state, number in sorted(states.items()))
    section.row(command, f"{seconds:.1f} s", count, shown)


def _forked(given: list, folder: Path, sent: tuple[float, int] | None) -> tuple[int, str]:
    """Run a command in a fork of this process, into an empty folder; a signal is sent so many seconds after its start.

    Returns exit code and output.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    ready, start = os.pipe()
    with tempfile.TemporaryFile() as output:
        if not (child := os.fork()):
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            sys.argv, code = ["qalib", *map(str, given)], 0
            usual = commands._run
            commands._run = lambda: (os.write(start, b"."), usual())  # signals are handled from here on
            try:
                commands.main()
            except SystemExit as ended:
                code = ended.code or 0
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        os.read(ready, 1)
        if sent:
            time.sleep(sent[0])
            os.kill(child, sent[1])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for end in (ready, start):
            os.close(end)
        output.seek(0)
        return code, output.read().decode()


def places() -> Section:
    """Links, pipes, devices and folders that this user may not write to, as models and as outputs."""
    section = Section(
        "Links, pipes and closed folders", "Models and outputs that are something else than files and folders.",
        ("what", "exit code", "what it says"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        _, packed = trial.tiny(place)
        data, links = trial.asked(place / "eight.json"), place / "links"
        links.mkdir()
        (place / "secret").write_text("secret")
        (links / "out").symlink_to(place / "elsewhere")
        os.mkfifo(links / "pipe")

        def model(what: str, file: str, change: Callable[[Path], None]) -> Path:
            folder = shutil.copytree(packed, place / what)
            (folder / file).unlink(missing_ok=True)
            change(folder / file)
            return folder

        licence = model("licence", "LICENSE", lambda path: path.symlink_to(place / "secret"))
        pipe = model("pipe", "config.json", os.mkfifo)
        weights = model("weights", "model.packed.safetensors", os.mkfifo)
        loop = model("loop", "config.json", lambda path: path.symlink_to("config.json"))
        closed = place / "secret" / "out"
        tried = {
            "a licence that links to another file": (["export", "--model", licence, "--out", place / "copy"], 2),
            "config.json is a pipe": (["sparsity", "--model", pipe], 2),
            "weights are a pipe": (["sparsity", "--model", weights], 2),
            "config.json links to itself": (["sparsity", "--model", loop], 2),
            "questions come from a pipe": (["evaluate", "--model", packed, "--data", links / "pipe"], 2),
            "an output links to nothing yet": (["export", "--model", packed, "--out", links / "out"], 0),
            "an output with ..": (["export", "--model", packed, "--out", place / "no" / ".." / "dots"], 0),
            "an output below a file": (["evaluate", "--model", packed, "--data", data, "--predictions", closed], 2),
            "predictions to /dev/null": (
                ["evaluate", "--model", packed, "--data", data, "--predictions", "/dev/null"],
                0,
            ),
        }
        null = os.stat("/dev/null").st_mode
        for what, (command, expected) in tried.items():
            ended = trial.call(*command)
            said = (ended.err.strip().splitlines() or [""])[-1].replace(str(place), "")
            section.row(what, ended.code, f"`{said[:150]}`" if ended.code else "")
            section.expect(ended.code == expected and "Traceback" not in ended.err, f"{what}: {ended}")
        section.expect((place / "elsewhere" / "config.json").exists(), "a link was not followed")
        section.expect(not (place / "copy").exists(), "a licence outside its folder was copied")
        section.expect(os.stat("/dev/null").st_mode == null, "/dev/null was replaced")
    return section


TEMPLATE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {},
            "pair": [{"Sequence": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}  # fmt: skip
SLOW = {"type": "Split", "pattern": {"Regex": "(.*)*x\\1y"}, "behavior": "Isolated", "invert": False}
PADDING = {"strategy": {"Fixed": 1_000_000}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 99_999,
           "pad_type_id": 7, "pad_token": "[PAD]"}  # fmt: skip
CUT = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
# What is changed in tokenizer.json and in tokenizer_config.json, and the exit code that has to come.
HOSTILE: dict[str, tuple[dict, dict, int]] = {
    "pads to a million tokens": ({"padding": PADDING}, {}, 0),
    "cuts after five tokens": ({"truncation": CUT}, {}, 0),
    "text before question": ({"post_processor": TEMPLATE}, {}, 2),
    "no special tokens": ({"post_processor": None}, {}, 2),
    "a pattern that never ends": ({"pre_tokenizer": SLOW}, {}, 2),
    "no normalizer, no words": ({"normalizer": None, "pre_tokenizer": None}, {}, 0),
    "windows of half a token more": ({}, {"model_max_length": 100.5}, 2),
    "files of the system": ({}, {"tokenizer_file": "/etc/passwd", "vocab_file": "../../etc/passwd"}, 0),
    "a class of another library": ({}, {"tokenizer_class": "os.system"}, 0),
    "a special token that is a number": ({}, {"cls_token": 5}, 2),
    "a template that runs code": ({}, {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}, 0),
    "one more token than the model": ({}, {"cls_token": "<new>"}, 2),
}


def tokenizers() -> Section:
    """Tokenizer files that want too much, or form pairs in another way than the model expects."""
    section = Section(
        "Hostile tokenizers", "`qalib answer` with a changed tokenizer.json or tokenizer_config.json; an answer "
        "must be in the text.", ("tokenizer", "exit code", "what it says"),
    )  # fmt: skip
    text = "ax" * 40 + " It is red and blue."
    with tempfile.TemporaryDirectory() as name:
        _, packed = trial.tiny(Path(name))
        for number, (what, (changed, settings, expected)) in enumerate(HOSTILE.items()):
            folder = shutil.copytree(packed, Path(name) / str(number))
            general = {"tokenizer_class": GENERAL} if changed else {}
            for file, values in (("tokenizer.json", changed), ("tokenizer_config.json", general | settings)):
                write_json(folder / file, read_json(folder / file) | values)
            ended = trial.call("answer", "What is it?", text, "--model", folder, "--json")
            lines = [line for line in ended.err.splitlines() if line.startswith("qalib: ")]
            section.row(what, ended.code, f"`{lines[-1].replace(str(folder), '')[:150]}`" if lines else "")
            answered = ended.code or json.loads(ended.out)["answers"][0]["answer"] in text
            section.expect(ended.code == expected and len(lines) == (expected > 0) and answered, f"{what}: {ended}")
    return section


def long(count: int = 10_000, characters: int = 100_000, lines: int = 1000) -> Section:
    """One long context, many questions over one context, and many questions in one batch."""
    section = Section(
        "Long texts, many questions", "By a tiny model, with the same calls as for short ones.", ("what", "windows")
    )
    with tempfile.TemporaryDirectory() as name:
        _, packed = trial.tiny(Path(name))
        loaded = checkpoint.load(packed)
        sentence = "It is red and blue. "
        text = (sentence * (characters // len(sentence) + 1))[:characters]
        cut = windows(loaded.tokenizer, ["What?"], [text])
        covered = {character for window in cut for start, end in window.offsets for character in range(start, end)}
        section.row(f"a context of {characters:,} characters", len(cut))
        section.expect(len(covered) == len(text.replace(" ", "")), "characters that are in no window")
        one = len(windows(loaded.tokenizer, ["What is 1?"], [sentence * 100]))
        many = len(windows(loaded.tokenizer, ["What is 1?"] * count, [sentence * 100] * count))
        section.row(f"{count:,} questions over one context of {100 * len(sentence):,}", many)
        section.expect(many == count * one, f"{many} windows, not {count} times {one}")
        ask = pipeline(model=loaded)
        asked = [{"question": f"What is {number}?", "context": f"It is {number} red."} for number in range(lines)]
        together = ask(asked, batch_size=lines)
        apart = [ask(each) for each in asked[:: max(1, lines // 20)]]
        section.row(f"{lines:,} questions in one batch of `pipeline`", lines)
        equal = [one["answer"] == other["answer"] and abs(one["score"] - other["score"]) < 1e-5
                 for one, other in zip(apart, together[:: max(1, lines // 20)], strict=True)]  # fmt: skip
        section.expect(all(equal), f"a batch answers differently: {equal}")
    return section
