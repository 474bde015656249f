"""The model card: a template filled with the numbers of a report folder.

The template contains no numbers; each comes from results.json, and a missing one is an error. Numbers that could not be
measured are shown as such, with the reason.
"""

import html
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from qalib.qa import squad
from qalib.report import results
from qalib.report.inputs import CardInputs
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_text
from qalib.utils.paths import TEMPLATES
from qalib.utils.quantity import Number

WIDGET = TEMPLATES / "widget.json"
HUB_NAMES = {version: name for name, (_, version) in squad.ON_HUB.items()}
FIGURES = ("heads.svg", "density.svg", "patterns.svg", "published.svg", "speedup.svg", "density_chart.html")


@dataclass(frozen=True)
class Card:
    """A written card: its folder and its text (YAML metadata and Markdown). Displays itself in a notebook."""

    folder: Path
    text: str

    @property
    def metadata(self) -> str:
        """The YAML block at the top."""
        return self.text.split("---\n")[1]

    def _repr_markdown_(self) -> str:
        body = self.text.split("\n---\n", 1)[-1]
        return re.sub(r"!?\[([^\]]*)\]\((?!http)[^)]*\)", r"*\1*", body)  # the files beside the card cannot be reached


def write(out: Path | str) -> Card:
    """Write `out/card/README.md` and its figures from the results and figures in `out`.

    Raises InputError if a number or a figure is missing: run the notebooks that measure first.
    """
    out = Path(out)
    text = render(results.read(out))
    for name in FIGURES:
        if not (source := out / "figures" / name).exists():
            raise InputError(f"{source}: no such figure; run the notebooks that measure (01 to 04) first")
        (out / "card").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out / "card" / name)
    write_text(out / "card" / "README.md", text)
    return Card(out / "card", text)


def render(numbers: dict[str, Number], linked: bool = False) -> str:
    """The card as text; if `linked`, every number in it is a link to `#NAME`.

    Raises InputError naming a number that the card needs and `numbers` lacks.
    """
    inputs = CardInputs.read(numbers)
    link = _linked if linked else lambda number, text: text
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {
        "show": lambda number, decimals=None: link(number, _plain(show(number, decimals))),
        "plain": _plain,
        "size": lambda number: link(number, _plain(size(number))),
        "tojson_text": lambda text: json.dumps(text, ensure_ascii=False),
    }
    body = environment.get_template("card.md.j2").render(
        n=numbers,
        scope=describe_scope(numbers),
        v2=version(numbers) == squad.V2,
        beside_teacher=is_all_of_dev(numbers) and version(numbers) == squad.V1,
        widget=read_json(WIDGET)[0],
        figures={Path(name).stem: name for name in FIGURES},
    )
    metadata = _metadata(inputs, version(numbers), is_all_of_dev(numbers))
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}").content


def version(numbers: dict[str, Number]) -> str:
    """The SQuAD version of the evaluation, "1.1" or "2.0": only 2.0 has NoAns scores."""
    return squad.V2 if "NoAns_total" in numbers else squad.V1


def describe_scope(numbers: dict[str, Number]) -> str:
    """The questions that EM and F1 are over, in words."""
    count, description = numbers["questions"].value, numbers["data_description"].value
    return squad.describe_scope(cast(int, count), str(description), version(numbers))


def describe_stated_scope(numbers: dict[str, Number]) -> str | None:
    """The questions that the checkpoint's own F1 is over, in words, if they are all of SQuAD's dev; else None."""
    if not all(name in numbers and numbers[name].value is not None for name in ("stated_f1", "stated_questions")):
        return None
    count = cast(int, numbers["stated_questions"].value)
    return next(
        (squad.describe_scope(count, "", v) for v, sizes in squad.SIZES.items() if sizes["validation"] == count), None
    )


def is_all_of_dev(numbers: dict[str, Number]) -> bool:
    """Whether EM and F1 are over as many questions as dev has: only then are they comparable to published ones."""
    return numbers["questions"].value == squad.SIZES[version(numbers)]["validation"]


def show(number: Number, decimals: int | None = None) -> str:
    """A number in readable form, with its unit; if it has no value, the reason."""
    if number.value is None:
        return number.note if number.note.startswith(("not ", "needs ")) else f"not measured ({number.note})"
    if isinstance(number.value, str):
        return number.value
    value = f"{number.value:,}" if decimals is None else f"{number.value:,.{decimals}f}"
    return value + {"%": " %", "x": "x", "count": "", "1": "", "probability": ""}.get(number.unit, f" {number.unit}")


def size(number: Number) -> str:
    """A number of bytes in decimal megabytes."""
    return show(number) if number.value is None else f"{float(number.value) / 1e6:,.1f} MB"


def _plain(text: str) -> str:
    """Escape outside text, so that it is neither read as HTML or Markdown nor breaks a table."""
    text = html.escape(" ".join(text.splitlines()), quote=False)
    return text.translate({ord(sign): f"&#{ord(sign)};" for sign in "|[]`*~\\"})


def _linked(number: Number, text: str) -> str:
    return f"[{text}](#{number.name})"


def _metadata(inputs: CardInputs, version: str, whole: bool) -> ModelCardData:
    """The YAML block; the hub lists scores beside published ones, so it has them for a `whole` question set only."""
    in_blocks = ["block-sparse"] if inputs.block_misfits is None else []
    scores = [
        EvalResult(
            task_type="question-answering", dataset_type=HUB_NAMES[version], dataset_name=inputs.data_description,
            dataset_split="validation", metric_type=key, metric_name=title, metric_value=round(value, 4),
        )
        for key, title, value in (("exact_match", "EM", inputs.exact_match), ("f1", "F1", inputs.f1))
        if whole and value is not None
    ]  # fmt: skip
    return ModelCardData(
        language="en",
        license=inputs.license,
        base_model=inputs.base_model,
        tags=["question-answering", str(inputs.architecture).lower(), *in_blocks, "pruning"],
        datasets=[HUB_NAMES[squad.V2 if inputs.train_data_version == squad.V2 else squad.V1]],
        metrics=[HUB_NAMES[version]],
        pipeline_tag="question-answering",
        widget=[{"text": entry["question"], "context": entry["context"]} for entry in read_json(WIDGET)],
        model_name=inputs.model_name,
        eval_results=scores or None,
    )
