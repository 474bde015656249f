"""The claims of the cards of madlag's block-sparse models, which share their wording, in the order of the audit.

A claim joins by a decorator on the function that computes ours:

    @claim("name", r"where a card states it: ([\\d.]+)", "unit", "by which definition")
    def name(evidence: Evidence) -> Found: ...

Where two definitions are plausible, the same name and pattern stand twice, each with a label of its own.
"""

from collections.abc import Callable

import pandas as pd
from transformers.pipelines import SUPPORTED_TASKS

from qalib import runtimes, sparsity
from qalib.benchmark import end_to_end
from qalib.model.checkpoint import NEEDS_WEIGHTS
from qalib.qa import squad, windows
from qalib.qa.answering import LENGTH_SORTED, BatchingConfig
from qalib.qa.squad import QuestionSet
from qalib.report.claim import DIFFERS, NEEDS_GPU, NOT_CHECKABLE, REPRODUCED, Claim, Evidence, Found, Stated

CARD_BATCHING = BatchingConfig(batch_size=16, sort_by_length=False, pad_to=384)
CLAIMS: list[Claim] = []
Check = Callable[[Evidence], Found]


def claim(
    name: str,
    pattern: str | None,
    unit: str,
    definition: str,
    label: str | None = None,
    implied: Callable[[Stated], str | None] | None = None,
) -> Callable[[Check], Check]:
    """Add a claim that the decorated function checks."""

    def register(check: Check) -> Check:
        CLAIMS.append(Claim(name, pattern, unit, definition, check, label or name, implied))
        return check

    return register


@claim("linear density", r"\*\*linear\*\* layers contains \*\*([\d.]+)%\*\*", "%",
       "weights that are not zero / all weights of the encoder matrices at unpruned size")  # fmt: skip
def _linear_density(evidence: Evidence) -> Found:
    return Found(evidence.summary.linear_density_percent, "counted over the unpruned size")


OVERALL = r"contains \*\*([\d.]+)%\*\* of the original weights \*\*overall\*\*"


@claim("overall density", OVERALL, "%", "kept / all parameters, pooler counted on both sides",
       label="overall density, with the pooler")  # fmt: skip
def _overall_density_with_pooler(evidence: Evidence) -> Found:
    explanation = "holds only with the pooler, which the question-answering model does not have"
    return Found(evidence.summary.overall_density_with_pooler_percent, explanation)


@claim("overall density", OVERALL, "%", "kept / all parameters of the question-answering model",
       label="overall density, of the model itself")  # fmt: skip
def _overall_density(evidence: Evidence) -> Found:
    return Found(evidence.summary.overall_density_percent, "the model's own parameters give this figure")


@claim("heads removed", r"(\d+) heads were removed on a total of \d+", "heads",
       "query, key or value weights of the head all zero")  # fmt: skip
def _heads_removed(evidence: Evidence) -> Found:
    per_layer = sparsity.heads(evidence.loaded).groupby("layer").called_removed.sum()
    explanation = (
        f"{evidence.summary.heads_removable} of them can go without changing the output; "
        f"removed per layer: {', '.join(map(str, per_layer))}"
    )
    return Found(evidence.summary.heads_called_removed, explanation)


@claim("heads in total", r"heads were removed on a total of (\d+)", "heads", "attention heads before pruning")
def _heads_in_total(evidence: Evidence) -> Found:
    config = evidence.loaded.model.config
    explanation = f"{config.num_hidden_layers} layers of {config.num_attention_heads}"
    return Found(evidence.summary.heads, explanation)


@claim("share of heads removed", r"heads were removed on a total of \d+ \(([\d.]+)%\)", "%",
       "heads removed / heads before pruning")  # fmt: skip
def _share_of_heads(evidence: Evidence) -> Found:
    explanation = f"{evidence.summary.heads_called_removed} of {evidence.summary.heads}, by the same rule"
    return Found(evidence.summary.heads_called_removed_percent, explanation)


FILE = r"file size\*\*:\s*`([\d.]+)MB?`"


@claim("file size", FILE, "MiB", "fp32 file, heads cut out, zero blocks stored, no pooler", label="file size, in MiB")
def _file_size_in_mib(evidence: Evidence) -> Found:
    ours = evidence.sizes["heads cut out fp32"] / 2**20
    text = evidence.stated["file size"]
    verdict = REPRODUCED if text and int(ours) == float(text) else DIFFERS
    return Found(ours, "the card's M is MiB here, cut down to a whole number", verdict)


@claim("file size", FILE, "MB", "the same in units of 10^6 bytes", label="file size, in MB")
def _file_size_in_mb(evidence: Evidence) -> Found:
    explanation = "in the unit of the original's size next to it the file is larger"
    return Found(evidence.sizes["heads cut out fp32"] / 1e6, explanation)


@claim("original file size", r"original BERT:\s*`([\d.]+)MB?`", "MB", "the dense model in fp32, with the pooler")
def _original_file_size(evidence: Evidence) -> Found:
    explanation = "MB of 10^6 bytes, and with a pooler that the pruned file does not have"
    return Found(evidence.sizes["dense fp32, pooler"] / 1e6, explanation)


def _implied_saving(stated: Stated) -> str | None:
    file, original = stated["file size"], stated["original file size"]
    return f"{100 * (1 - float(file) / float(original)):.1f}" if file and original else None


@claim("saving of the file", None, "%", "1 - file / original", implied=_implied_saving)
def _saving(evidence: Evidence) -> Found:
    file, original = evidence.sizes["heads cut out fp32"], evidence.sizes["dense fp32"]
    explanation = (
        f"like for like, fp32 without pooler in MB: {file / 1e6:.1f} against {original / 1e6:.1f}; "
        "the card does not print the ratio, its two units suggest it"
    )
    return Found(100 * (1 - file / original), explanation)


WINDOWS = "windows of 320 tokens, at most 64 of the question, each next starting 128 tokens further"


@claim("train samples", r"\|\s*train\s*\|\s*([\d.]+[kK]?)\s*\|", "windows", WINDOWS)
def _train_samples(evidence: Evidence) -> Found:
    return _samples(evidence, evidence.train, "train")


@claim("eval samples", r"\|\s*eval\s*\|\s*([\d.]+[kK]?)\s*\|", "windows", WINDOWS)
def _eval_samples(evidence: Evidence) -> Found:
    return _samples(evidence, evidence.data, "validation")


def _samples(evidence: Evidence, asked: QuestionSet | None, split: str) -> Found:
    if asked is None or not asked.is_all_of(split):
        why = f"needs all {squad.SIZES[squad.V1][split]:,} questions of SQuAD v1.1 {split}; name the file"
        return Found(None, why, NOT_CHECKABLE)
    questions = [q.question for q in asked.questions]
    contexts = [q.context for q in asked.questions]
    count = windows.count_2019(evidence.loaded.tokenizer, questions, contexts)
    return Found(count, f"windows, not questions: {asked.description} has {len(asked):,} questions")


@claim("usage example", r'from transformers import pipeline.{0,2000}?pipeline\(\s*"([\w-]+)"', "text",
       "does the example run with the installed transformers?")  # fmt: skip
def _usage_example(evidence: Evidence) -> Found:
    task = evidence.stated["usage example"]
    there = task in SUPPORTED_TASKS
    explanation = "with `from qalib import pipeline` in place of its import it runs as it is"
    if there:
        return Found("runs", explanation, REPRODUCED)
    return Found(f"transformers has no {task!r} pipeline", explanation, DIFFERS)


@claim("speedup", r"it ran \*\*([\d.]+)x\*\* faster", "x", "whole evaluation loop, dense / sparse")
def _speedup(evidence: Evidence) -> Found:
    device = evidence.device
    best = runtimes.best(device)
    asked = evidence.data.first(evidence.timed_questions)
    times = _times(evidence, asked, best)
    ours = times.median_seconds["dense, ours"] / times.median_seconds[f"{best}, ours"]
    return Found(
        ours=float(times.speedup[f"{best}, card"]),
        definition="whole evaluation loop, batch 16, 384 tokens, fp32: dense, zeros multiplied / "
        f"{best}, same run; median of 3, {asked.description}, {device}",
        verdict=None if device == "cuda" else NEEDS_GPU,
        explanation=f"cutting out heads and neurons alone gives {times.speedup['compact, card']:.2f}x; in batches of "
        f"like length without needless padding, which dense gets too, {best} gives {ours:.2f}x over dense; the runtime "
        "of the card was not released, and its figure is one run on a GPU",
    )


def _times(evidence: Evidence, asked: QuestionSet, best: str) -> pd.DataFrame:
    ways = {
        f"{name}, {how}": (name, batching)
        for how, batching in (("card", CARD_BATCHING), ("ours", LENGTH_SORTED))
        for name in dict.fromkeys(("dense", "compact", best))
    }
    times = end_to_end.evaluation_time(evidence.loaded, asked, evidence.device, "fp32", 3, evidence.progress, ways)
    return times.set_index("way")


DEV = "official SQuAD v1.1 metric, all of dev"


@claim("exact match", r"\*\*EM\*\*\s*\|\s*\*\*([\d.]+)\*\*", "%", DEV)
def _exact_match(evidence: Evidence) -> Found:
    return _scored(evidence, "exact_match")


@claim("F1", r"\*\*F1\*\*\s*\|\s*\*\*([\d.]+)\*\*", "%", DEV)
def _f1(evidence: Evidence) -> Found:
    return _scored(evidence, "f1")


def _scored(evidence: Evidence, metric: str) -> Found:
    if evidence.score is None:
        return Found(None, "a structural twin has random weights", NEEDS_WEIGHTS)
    verdict = None if evidence.data.is_all_of("validation") else NOT_CHECKABLE
    return Found(evidence.score[metric], f"over {evidence.data.description}", verdict)


ORIGINAL = r"\*\*%s\*\*\s*\|\s*\*\*[\d.]+\*\*\s*\|\s*\*\*([\d.]+)\*\*"


@claim("original exact match", ORIGINAL % "EM", "%", "BERT-base on SQuAD v1.1 dev")
def _original_exact_match(evidence: Evidence) -> Found:
    return _copied(evidence)


@claim("original F1", ORIGINAL % "F1", "%", "BERT-base on SQuAD v1.1 dev")
def _original_f1(evidence: Evidence) -> Found:
    return _copied(evidence)


def _copied(evidence: Evidence) -> Found:
    explanation = "copied from Table 2 of the BERT paper (arXiv 1810.04805); measured there, not by the card"
    return Found(None, explanation, NOT_CHECKABLE)


@claim("machine", r"GPUs: ([^\n]+)", "text", "the machine of the card's timing")
def _machine(evidence: Evidence) -> Found:
    return Found(None, "the machine that the card names is not this one", NOT_CHECKABLE)
