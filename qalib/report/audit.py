"""The audit: what a published card claims, held against what can be computed.

For the cards of madlag's block-sparse models, which share their wording. Without the published weights the structural
twin (`twin`) stands in wherever values do not matter.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from transformers.pipelines import SUPPORTED_TASKS

from qalib import runtimes, sparsity
from qalib.benchmark import end_to_end
from qalib.model import checkpoint, synthetic
from qalib.model.checkpoint import NEEDS_WEIGHTS, Checkpoint
from qalib.qa import evaluation, windows
from qalib.qa.evaluation import Protocol
from qalib.qa.squad import QuestionSet
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, read_text
from qalib.utils.paths import BUNDLED, PUBLISHED_MODELS

REPRODUCED, DIFFERS, ABSENT = "reproduced", "differs", "absent from the card"
NEEDS_GPU, NOT_CHECKABLE = "needs a GPU", "not checkable"
CARD_PROTOCOL = Protocol(batch=16, by_length=False, pad_to=384)

PATTERNS = {
    "linear density": r"\*\*linear\*\* layers contains \*\*([\d.]+)%\*\*",
    "overall density": r"contains \*\*([\d.]+)%\*\* of the original weights \*\*overall\*\*",
    "heads removed": r"(\d+) heads were removed on a total of \d+",
    "heads in total": r"heads were removed on a total of (\d+)",
    "speedup": r"it ran \*\*([\d.]+)x\*\* faster",
    "train samples": r"\|\s*train\s*\|\s*([\d.]+[kK]?)\s*\|",
    "eval samples": r"\|\s*eval\s*\|\s*([\d.]+[kK]?)\s*\|",
    "file size": r"file size\*\*:\s*`([\d.]+)MB?`",
    "original file size": r"original BERT:\s*`([\d.]+)MB?`",
    "exact match": r"\*\*EM\*\*\s*\|\s*\*\*([\d.]+)\*\*",
    "F1": r"\*\*F1\*\*\s*\|\s*\*\*([\d.]+)\*\*",
    "original exact match": r"\*\*EM\*\*\s*\|\s*\*\*[\d.]+\*\*\s*\|\s*\*\*([\d.]+)\*\*",
    "original F1": r"\*\*F1\*\*\s*\|\s*\*\*[\d.]+\*\*\s*\|\s*\*\*([\d.]+)\*\*",
    "usage example": r'from transformers import pipeline.{0,2000}?pipeline\(\s*"([\w-]+)"',
    "machine": r"GPUs: ([^\n]+)",
}
NUMBER = r"(?=[1-9]|0*\.?0*[1-9])[0-9]{1,12}(\.[0-9]{1,12})?[kK]?"  # above 0


@dataclass(frozen=True)
class Finding:
    """One claim: as the card states it, what we found, in which unit, by which definition, and the verdict."""

    claim: str
    stated: str
    ours: str
    unit: str
    definition: str
    verdict: str
    explanation: str


def claims(card: str) -> dict[str, str | None]:
    """The claims of a card's text by name, as they are written there; None for one that it does not make."""
    found = {name: re.search(pattern, card, re.DOTALL) for name, pattern in PATTERNS.items()}
    return {name: match.group(1) if match else None for name, match in found.items()}


def read(path: Path | str | None = None) -> dict[str, str | None]:
    """The claims in a card file; without one, those of the published 0.32 card, kept as facts.

    Raises InputError if the file makes none of the claims.
    """
    if path is None:
        return dict(read_json(PUBLISHED_MODELS)["0.32"]["claims"])
    found = claims(read_text(path))
    if not any(found.values()):
        raise InputError(f"{path}: not a card of this family; none of its claims was found")
    for name, text in found.items():
        if text is not None and PATTERNS[name].count(r"([\d.]+") and not re.fullmatch(NUMBER, text):
            raise InputError(f"{path}: {name}: {text!r} is not a number")
    return found


@contextmanager
def subject(model: str | None, reported: str | None = None) -> Iterator[Checkpoint]:
    """The checkpoint to audit: `model`, or a structural twin of the published 0.32 model, made for the occasion.

    The `reported` model, that of the report that the audit is part of, is taken if it is the published one or a twin.
    """
    published = read_json(PUBLISHED_MODELS)["0.32"]["config"]["_name_or_path"]
    if model is not None or reported is not None:
        loaded = checkpoint.load(model or reported)
        of_it = str(loaded.meta.get("twin_of", loaded.name)).split("/")[-1] == published.split("/")[-1]
        if model is not None or of_it:
            yield loaded
            return
    with TemporaryDirectory() as folder:
        yield checkpoint.load(synthetic.make(Path(folder) / "twin-of-0.32", vocabulary=BUNDLED))


def audit(
    stated: dict[str, str | None],
    loaded: Checkpoint,
    data: QuestionSet,
    train: QuestionSet | None = None,
    device: str = "cpu",
    timed_questions: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Check every claim; one row a `Finding`. A structural twin has no answers: its EM and F1 need weights."""
    found = [*_structure(stated, loaded), *_sizes(stated, loaded), *_samples(stated, loaded, data, train)]
    found.append(_usage(stated))
    found.append(_speed(stated, loaded, data.first(timed_questions), device, progress))
    found += _scores(stated, loaded, data, device, progress)
    found.append(
        _finding(stated, "machine", None, "text", "the machine of the card's timing", NOT_CHECKABLE,
                 "the machine that the card names is not this one")
    )  # fmt: skip
    return pd.DataFrame([asdict(finding) for finding in found])


def _finding(
    stated: dict[str, str | None], name: str, ours: float | str | None, unit: str, definition: str,
    verdict: str | Callable[[float], bool], explanation: str, label: str | None = None,
) -> Finding:  # fmt: skip
    """A row; `verdict` may be a test of our value that says whether the claim is reproduced."""
    text = stated[name]
    if text is None:
        verdict, explanation = ABSENT, "the card does not say"
    elif callable(verdict):
        verdict = REPRODUCED if verdict(ours) else DIFFERS
    shown = "" if ours is None else ours if isinstance(ours, str) else f"{ours:,.2f}" if ours % 1 else f"{ours:,.0f}"
    return Finding(label or name, text or "", shown, unit, definition, verdict, explanation)


def _prints_as(text: str | None) -> Callable[[float], bool]:
    """Does a value print as the card's text, at the card's precision? "90.6K" are thousands."""

    def test(value: float) -> bool:
        number = text.rstrip("kK")
        scale = 1000 if number != text else 1
        decimals = len(number.partition(".")[2])
        return abs(value / scale - float(number)) <= 0.5 * 10**-decimals + 1e-9

    return test


def _structure(stated: dict[str, str | None], loaded: Checkpoint) -> list[Finding]:
    summary, heads = sparsity.summary(loaded), sparsity.heads(loaded)
    per_layer = heads.groupby("layer").called_removed.sum().tolist()
    overall = _prints_as(stated["overall density"])
    return [
        _finding(stated, "linear density", summary.linear_density_percent, "%",
                 "kept / all 32x32 blocks of the encoder matrices at unpruned size",
                 _prints_as(stated["linear density"]), "counted over the unpruned size"),
        _finding(stated, "overall density", summary.overall_density_with_pooler_percent, "%",
                 "kept / all parameters, pooler counted on both sides", overall,
                 "holds only with the pooler, which the question-answering model does not have",
                 "overall density, with the pooler"),
        _finding(stated, "overall density", summary.overall_density_percent, "%",
                 "kept / all parameters of the question-answering model", overall,
                 "the model's own parameters give this figure", "overall density, of the model itself"),
        _finding(stated, "heads removed", float(summary.heads_called_removed), "heads",
                 "query, key or value weights of the head all zero", _prints_as(stated["heads removed"]),
                 f"{summary.heads_removable} of them can go without changing the output; "
                 f"removed per layer: {', '.join(map(str, per_layer))}"),
        _finding(stated, "heads in total", float(summary.heads), "heads", "attention heads before pruning",
                 _prints_as(stated["heads in total"]), "12 layers of 12"),
    ]  # fmt: skip


def _sizes(stated: dict[str, str | None], loaded: Checkpoint) -> list[Finding]:
    sizes = sparsity.file_sizes(loaded).set_index("form").bytes
    ours, dense = int(sizes["heads cut out fp32"]), int(sizes["dense fp32"])
    hidden = loaded.model.config.hidden_size
    pooled = dense + 4 * (hidden * hidden + hidden)
    file, original = stated["file size"], stated["original file size"]
    rows = [
        _finding(stated, "file size", ours / 2**20, "MiB", "fp32 file, heads cut out, zero blocks stored, no pooler",
                 lambda value: int(value) == float(file), "the card's M is MiB here, cut down to a whole number",
                 "file size, in MiB"),
        _finding(stated, "file size", ours / 1e6, "MB", "the same in units of 10^6 bytes", _prints_as(file),
                 "in the unit of the original's size next to it the file is larger", "file size, in MB"),
        _finding(stated, "original file size", pooled / 1e6, "MB", "the dense model in fp32, with the pooler",
                 _prints_as(original), "MB of 10^6 bytes, and with a pooler that the pruned file does not have"),
    ]  # fmt: skip
    if file and original:
        percent = 100 * (1 - float(file) / float(original))
        rows.append(
            Finding("saving of the file", f"{percent:.1f}", f"{100 * (1 - ours / dense):.1f}", "%",
                    "1 - file / original", DIFFERS,
                    f"like for like, fp32 without pooler in MB: {ours / 1e6:.1f} against {dense / 1e6:.1f}; "
                    "the card does not print the ratio, its two units suggest it")
        )  # fmt: skip
    return rows


def _samples(
    stated: dict[str, str | None], loaded: Checkpoint, data: QuestionSet, train: QuestionSet | None
) -> list[Finding]:
    rows, sizes = [], read_json(PUBLISHED_MODELS)["squad"]
    for name, split, questions in (("train samples", "train", train), ("eval samples", "validation", data)):
        definition = "windows of 320 tokens, at most 64 of the question, each next starting 128 tokens further"
        if questions is None or len(questions) != sizes[split]:
            why = f"needs all {sizes[split]:,} questions of SQuAD v1.1 {split}; name the file"
            rows.append(_finding(stated, name, None, "windows", definition, NOT_CHECKABLE, why))
            continue
        texts = [q.question for q in questions.questions], [q.context for q in questions.questions]
        count = windows.count_2019(loaded.tokenizer, *texts)
        rows.append(
            _finding(stated, name, float(count), "windows", definition, _prints_as(stated[name]),
                     f"windows, not questions: {questions.description} has {len(questions):,} questions")
        )  # fmt: skip
    return rows


def _usage(stated: dict[str, str | None]) -> Finding:
    task = stated["usage example"]
    there = task in SUPPORTED_TASKS
    return _finding(stated, "usage example", "runs" if there else f"transformers has no {task!r} pipeline", "text",
                    "does the example run with the installed transformers?", REPRODUCED if there else DIFFERS,
                    "with `from qalib import pipeline` in place of its import it runs as it is")  # fmt: skip


def _speed(
    stated: dict[str, str | None], loaded: Checkpoint, data: QuestionSet, device: str, progress: bool
) -> Finding:
    best = runtimes.best(device)
    ways = {f"{name}, {how}": (name, protocol) for how, protocol in (("card", CARD_PROTOCOL), ("ours", evaluation.OURS))
            for name in dict.fromkeys(("dense", "compact", best))}  # fmt: skip
    times = end_to_end.evaluation_time(loaded, data, device, "fp32", 3, progress, ways).set_index("way")
    ours = times.median_seconds["dense, ours"] / times.median_seconds[f"{best}, ours"]
    return _finding(
        stated, "speedup", float(times.speedup[f"{best}, card"]), "x",
        "whole evaluation loop, batch 16, 384 tokens, fp32: dense, zeros multiplied / "
        f"{best}, same run; median of 3, {data.description}, {device}",
        _prints_as(stated["speedup"]) if device == "cuda" else NEEDS_GPU,
        f"cutting out heads and neurons alone gives {times.speedup['compact, card']:.2f}x; in batches of like length "
        f"without needless padding, which dense gets too, {best} gives {ours:.2f}x over dense; the runtime of the card "
        "was not released, and its figure is one run on a GPU",
    )  # fmt: skip


def _scores(
    stated: dict[str, str | None], loaded: Checkpoint, data: QuestionSet, device: str, progress: bool
) -> list[Finding]:
    rows, score, whole = [], None, len(data) == read_json(PUBLISHED_MODELS)["squad"]["validation"]
    if not loaded.unscored:
        model = runtimes.build(runtimes.best(device), loaded, device)
        score = asdict(evaluation.evaluate(model, loaded.tokenizer, data, progress=progress).score)
    for name, key in (("exact match", "exact_match"), ("F1", "f1")):
        if score is None:
            verdict, why = NEEDS_WEIGHTS, "a structural twin has random weights"
        else:
            verdict, why = _prints_as(stated[name]) if whole else NOT_CHECKABLE, f"over {data.description}"
        ours = None if score is None else score[key]
        rows.append(_finding(stated, name, ours, "%", "official SQuAD v1.1 metric, all of dev", verdict, why))
    for name in ("original exact match", "original F1"):
        rows.append(
            _finding(stated, name, None, "%", "BERT-base on SQuAD v1.1 dev", NOT_CHECKABLE,
                     "copied from Table 2 of the BERT paper (arXiv 1810.04805); measured there, not by the card")
        )  # fmt: skip
    return rows
