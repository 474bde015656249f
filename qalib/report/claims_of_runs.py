"""Claims about what a model did: its data, samples, scores and speed, the example, and the card's own arithmetic."""

import pandas as pd
from transformers.pipelines import SUPPORTED_TASKS

from qalib import runtimes
from qalib.benchmark import end_to_end
from qalib.model.checkpoint import NEEDS_WEIGHTS
from qalib.qa import squad, windows
from qalib.qa.batching import LENGTH_SORTED, BatchingConfig
from qalib.qa.squad import QuestionSet
from qalib.report.claim import DIFFERS, NEEDS_GPU, NOT_CHECKABLE, REPRODUCED, CheckResult, Claim, Evidence, register_in

CARD_BATCHING = BatchingConfig(batch_size=16, sort_by_length=False, pad_to=384)
CLAIMS: list[Claim] = []  # in the order of the audit
claim = register_in(CLAIMS)


@claim("data set", "text", "the questions that the card's samples and scores are over")
def _data_set(evidence: Evidence) -> CheckResult:
    return CheckResult(None, "what was counted and scored by the card's author", NOT_CHECKABLE)


WINDOWS = "windows of 320 tokens, at most 64 of them the question's, each starting 128 tokens after the last"


@claim("train samples", "windows", WINDOWS)
def _train_samples(evidence: Evidence) -> CheckResult:
    return _samples(evidence, evidence.train, "train")


@claim("eval samples", "windows", WINDOWS)
def _eval_samples(evidence: Evidence) -> CheckResult:
    return _samples(evidence, evidence.data, "validation")


def _samples(evidence: Evidence, asked: QuestionSet | None, split: str) -> CheckResult:
    if other := _other_data(evidence):
        return CheckResult(None, other, NOT_CHECKABLE)
    if asked is None or not asked.is_all_of(split):
        version = evidence.data.version
        why = f"needs all {squad.SIZES[version][split]:,} questions of SQuAD v{version} {split}; name the file"
        return CheckResult(None, why, NOT_CHECKABLE)
    questions = [q.question for q in asked.questions]
    contexts = [q.context for q in asked.questions]
    count = windows.count_2019(evidence.loaded.tokenizer, questions, contexts)
    return CheckResult(count, f"windows, not questions: {asked.description} has {len(asked):,} questions")


@claim("usage example", "text", "does the example run with the installed transformers?")
def _usage_example(evidence: Evidence) -> CheckResult:
    task = evidence.stated.get("usage example")
    there = task in SUPPORTED_TASKS
    explanation = "with `from qalib import pipeline` instead of its imports it runs, and needs no `optimize_model`"
    if there:
        return CheckResult("runs", explanation, REPRODUCED)
    return CheckResult(f"transformers has no {task!r} pipeline", explanation, DIFFERS)


@claim("speedup", "x", "whole evaluation loop, dense / sparse")
def _speedup(evidence: Evidence) -> CheckResult:
    device = evidence.device
    best = runtimes.best(device)
    asked = evidence.data.first(evidence.timed_questions)
    times = _times(evidence, asked, best)
    where = "" if device == "cuda" else "measured on a CPU: "
    return CheckResult(
        ours=float(times.speedup[f"{best}, card"]),
        definition="whole evaluation loop, batch 16, 384 tokens, fp32: dense, zeros multiplied / "
        f"{best}, same run; median of 3, {asked.description}, {device}",
        verdict=None if device == "cuda" else NEEDS_GPU,
        explanation=f"{where}cutting out heads and neurons alone gives {times.speedup['compact, card']:.2f}x; in "
        f"batches of similar length without needless padding, for dense too, {best} gives "
        f"{times.speedup[f'{best}, ours']:.2f}x over dense; the card's "
        "figure is from one run on a GPU, with a runtime of its own",
    )


def _times(evidence: Evidence, asked: QuestionSet, best: str) -> pd.DataFrame:
    ways = {
        f"{name}, {how}": end_to_end.Way(name, batching)
        for how, batching in (("card", CARD_BATCHING), ("ours", LENGTH_SORTED))
        for name in dict.fromkeys(("dense", "compact", best))
    }
    times = end_to_end.evaluation_time(evidence.loaded, asked, evidence.device, "fp32", 3, evidence.progress, ways)
    return times.set_index("way")


DEV = "the official metric of the SQuAD that was asked, all of dev"


@claim("exact match", "%", DEV)
def _exact_match(evidence: Evidence) -> CheckResult:
    return _scored(evidence, "exact_match")


@claim("F1", "%", DEV)
def _f1(evidence: Evidence) -> CheckResult:
    return _scored(evidence, "f1")


def _scored(evidence: Evidence, metric: str) -> CheckResult:
    if other := _other_data(evidence):
        return CheckResult(None, other, NOT_CHECKABLE)
    if evidence.score is None:
        return CheckResult(None, "a structural twin has random weights", NEEDS_WEIGHTS)
    verdict = None if evidence.data.is_all_of("validation") else NOT_CHECKABLE
    return CheckResult(evidence.score[metric], f"over {evidence.data.description}", verdict)


def _other_data(evidence: Evidence) -> str:
    """Why the card's figures are not over our questions; "" if they may be."""
    text, version = evidence.stated.get("data set"), evidence.data.version
    return f"the card's figures are over {text}, ours over SQuAD v{version}" if text and version not in text else ""


@claim("original exact match", "%", "the dense model that the card compares with, on its data")
def _original_exact_match(evidence: Evidence) -> CheckResult:
    return _copied(evidence)


@claim("original F1", "%", "the dense model that the card compares with, on its data")
def _original_f1(evidence: Evidence) -> CheckResult:
    return _copied(evidence)


def _copied(evidence: Evidence) -> CheckResult:
    if other := _other_data(evidence):
        return CheckResult(None, other, NOT_CHECKABLE)
    explanation = "copied from Table 2 of the BERT paper (arXiv 1810.04805); measured there, not by the card"
    if evidence.data.version == squad.V2:
        explanation = "of a dense model that is not here"
    return CheckResult(None, explanation, NOT_CHECKABLE)


SUBTRACTED = "the card's figure minus the original's, both as the card prints them"


@claim("exact match over the original", "points", SUBTRACTED)
def _exact_match_over_the_original(evidence: Evidence) -> CheckResult:
    return CheckResult(
        _subtracted(evidence, "exact match"), "the card's own arithmetic, whatever its figures are worth"
    )


@claim("F1 over the original", "points", SUBTRACTED)
def _f1_over_the_original(evidence: Evidence) -> CheckResult:
    return CheckResult(_subtracted(evidence, "F1"), "the card's own arithmetic, whatever its figures are worth")


@claim("F1 in words", "text", SUBTRACTED)
def _f1_in_words(evidence: Evidence) -> CheckResult:
    gain = _subtracted(evidence, "F1")
    ours = None if gain is None else f"{'gain' if gain > 0 else 'drop'} of {abs(gain):.2f}"
    verdict = REPRODUCED if ours == evidence.stated.get("F1 in words") else DIFFERS
    return CheckResult(ours, "the same in a sentence", verdict)


def _subtracted(evidence: Evidence, metric: str) -> float | None:
    ours, original = evidence.stated.get(metric), evidence.stated.get(f"original {metric}")
    return None if ours is None or original is None else float(ours) - float(original)


@claim("machine", "text", "the machine that the card's timing was done on")
def _machine(evidence: Evidence) -> CheckResult:
    return CheckResult(None, "not the machine that the card names", NOT_CHECKABLE)
