"""Every `qalib` and `make` command that README, course, glossary and docstrings quote, held against the real ones."""

import re
import shlex

import nbformat
import pytest
import typer
from conftest import ROOT

from qalib.cli import commands
from qalib.model import checkpoint, synthetic
from qalib.qa import evaluation, metric, squad
from qalib.report import build, comparison, push

APP = typer.main.get_command(commands.app)
TEXTS = ("*.md", "reports/benchmarks/*.md",
         "notebooks/**/*.md", "notebooks/**/*.ipynb", "qalib/**/*.py", "qalib/**/*.j2", "models/**/*.md",
         ".github/**/*.yml", "Makefile")  # fmt: skip
SPAN = re.compile(r"`(qalib(?:\s+(?![-\w]+ import)[^`]*)?)`")
LINE = re.compile(r"^\s*(qalib (?:.*\\\n)*.*)", re.MULTILINE)
ENTRIES = ((checkpoint, "load"), (squad, "load"), (metric, "read_predictions"), (synthetic, "make_twin"),
           (evaluation, "load_and_evaluate"), (build, "run"), (comparison, "run"), (push, "assemble"))  # fmt: skip
PLACEHOLDERS = {"DENSITY": "0.2", "METHOD": "movement"}


class Accepted(Exception):
    """Raised in place of a command's work."""


def texts():
    for path in (path for pattern in TEXTS for path in sorted(ROOT.glob(pattern))):
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            yield path, "\n".join(cell.source for cell in cells)
        else:
            yield path, path.read_text()


def quoted():
    """The commands quoted, each as its file's name and its words without the first; a fenced line is a whole one."""
    for path, text in texts():
        fences = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        found = SPAN.findall(re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL)) if path.name != "Makefile" else []
        found += [line for fence in fences for line in LINE.findall(fence)]
        for command in dict.fromkeys(found):
            if words := shlex.split(re.sub(r"\\\s*\n", " ", command), comments=True)[1:]:
                yield pytest.param(words, id=f"{path.stem}: {' '.join(command.split())[:60]}")


QUOTED = list(quoted())


def completed(command, words):
    """The words with a value for each option, and for what is required but not quoted."""
    options = {name: option for option in command.params for name in option.opts if option.param_type_name == "option"}
    complete, positional, left = [], 0, [PLACEHOLDERS.get(word, word) for word in words]
    while left:
        complete.append(left.pop(0))
        if complete[-1] not in options:
            positional += 1
        elif not options[complete[-1]].is_flag:
            complete.append(left.pop(0) if left and not left[0].startswith("--") else "1")
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    for argument in arguments[positional:]:
        complete += ["owner/name"] * (2 if argument.nargs == -1 else 1)
    complete[1:1] = ["density"] * (command.name == "sweep" and not positional)
    return complete + [
        part for name, option in options.items() if option.required and name not in words for part in (name, "owner/x")
    ]


@pytest.mark.parametrize("words", QUOTED)
def test_a_quoted_command_is_accepted(words, tmp_path, monkeypatch):
    """The checks before the work begins: names, values, options that go together."""
    monkeypatch.chdir(tmp_path)

    def accept(*_, **__):
        raise Accepted

    for module, name in ENTRIES:
        monkeypatch.setattr(module, name, accept)
    if words[0] in ("--debug", "--version") or "--help" in words:
        words = [word for word in words if word not in ("--debug", "--version", "--help", "...")]
    if not words:
        return
    name, words = words[0], [word for word in words[1:] if word != "..."]
    command = APP.commands[name]
    if [name, *words] in (["env"], ["benchmark"]):  # nothing to check
        return
    if name == "benchmark":
        name, command, words = words[0], command.commands[words[0]], words[1:]
    with pytest.raises(Accepted):
        command.main(completed(command, words), name, standalone_mode=False)


def test_commands_are_quoted():
    assert len(QUOTED) > 40 and {param.values[0][0] for param in QUOTED} >= APP.commands.keys()


def test_options_in_the_readmes_table_are_those_of_the_command():
    rows = re.findall(r"^\| `qalib (\w+)([^`]*)` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name for name, _, _ in rows} == APP.commands.keys()
    for name, _, what in rows:
        commands = getattr(APP.commands[name], "commands", {name: APP.commands[name]}).values()
        options = {option for command in commands for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"`(--[\w-]+)", what)) <= options, name


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path, text in texts():
        said = re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text, re.MULTILINE)
        assert {one or other for one, other in said} <= targets, path
