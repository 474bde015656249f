"""The claims that cards of pruned models make, in the order of the audit; `wordings` has the words that state them.

To add a claim, decorate the function that computes our value:

    @claim("name", "unit", "by which definition")
    def name(evidence: Evidence) -> Found: ...

Where two definitions are plausible, the same name appears twice, with different labels.
"""

from collections.abc import Callable

import pandas as pd
from transformers.pipelines import SUPPORTED_TASKS

from qalib import runtimes, sparsity
from qalib.benchmark import end_to_end
from qalib.model.checkpoint import NEEDS_WEIGHTS
from qalib.model.settings import NO_NORM
from qalib.qa import squad, windows
from qalib.qa.answering import LENGTH_SORTED, BatchingConfig
from qalib.qa.squad import QuestionSet
from qalib.report.claim import (
    DIFFERS,
    NEEDS_GPU,
    NOT_CHECKABLE,
    REPRODUCED,
    Claim,
    Evidence,
    Found,
    Stated,
    prints_as,
)

CARD_BATCHING = BatchingConfig(batch_size=16, sort_by_length=False, pad_to=384)
CLAIMS: list[Claim] = []
Check = Callable[[Evidence], Found]


def claim(
    name: str,
    unit: str,
    definition: str,
    label: str | None = None,
    implied: Callable[[Stated], str | None] | None = None,
) -> Callable[[Check], Check]:
    """Add a claim that the decorated function checks."""

    def register(check: Check) -> Check:
        CLAIMS.append(Claim(name, unit, definition, check, label or name, implied))
        return check

    return register


@claim("model", "text", "the checkpoint that the card describes")
def _model(evidence: Evidence) -> Found:
    text = evidence.stated.get("model") or ""
    name = str(evidence.loaded.meta.get("twin_of", evidence.loaded.name))
    verdict = REPRODUCED if name.split("/")[-1] == text.split("/")[-1] else DIFFERS
    return Found(name, "the model, or the original of the twin, that all our figures come from", verdict)


@claim("data set", "text", "the questions that the card's samples and scores are over")
def _data_set(evidence: Evidence) -> Found:
    return Found(None, "what was counted and scored by the card's author", NOT_CHECKABLE)


@claim("linear density", "%", "weights that are not zero / all weights of the encoder matrices at unpruned size")
def _linear_density(evidence: Evidence) -> Found:
    return _density(
        evidence, "linear density", evidence.summary.linear_density_percent, "counted over the unpruned size"
    )


@claim("overall density", "%", "kept / all parameters, pooler counted on both sides",
       label="overall density, with the pooler")  # fmt: skip
def _overall_density_with_pooler(evidence: Evidence) -> Found:
    explanation = "holds only with the pooler, which the question-answering model does not have"
    return _density(evidence, "overall density", evidence.summary.overall_density_with_pooler_percent, explanation)


@claim("overall density", "%", "kept / all parameters of the question-answering model",
       label="overall density, of the model itself")  # fmt: skip
def _overall_density(evidence: Evidence) -> Found:
    explanation = "the model's own parameters give this figure"
    return _density(evidence, "overall density", evidence.summary.overall_density_percent, explanation)


def _density(evidence: Evidence, name: str, ours: float, explanation: str) -> Found:
    text = evidence.stated.get(name) or ""
    if text.endswith(".0") and not prints_as(ours, text):  # nn_pruning rounds before it prints
        same = "which is" if prints_as(ours, text.removesuffix(".0")) else "which is not"
        explanation = f"the card seems to print whole percents with a decimal: {ours:.2f} rounded, {same} what it says"
    return Found(ours, explanation)


@claim("heads removed", "heads", "query, key or value weights of the head all zero")
def _heads_removed(evidence: Evidence) -> Found:
    per_layer = sparsity.heads(evidence.loaded).groupby("layer").called_removed.sum()
    explanation = (
        f"{evidence.summary.heads_removable} of them can go without changing the output; "
        f"removed per layer: {', '.join(map(str, per_layer))}"
    )
    return Found(evidence.summary.heads_called_removed, explanation)


@claim("heads in total", "heads", "attention heads before pruning")
def _heads_in_total(evidence: Evidence) -> Found:
    config = evidence.loaded.model.config
    explanation = f"{config.num_hidden_layers} layers of {config.num_attention_heads}"
    return Found(evidence.summary.heads, explanation)


@claim("share of heads removed", "%", "heads removed / heads before pruning")
def _share_of_heads(evidence: Evidence) -> Found:
    explanation = f"{evidence.summary.heads_called_removed} of {evidence.summary.heads}, by the same rule"
    return Found(evidence.summary.heads_called_removed_percent, explanation)


@claim("file size", "MiB", "fp32 file, heads cut out, zero blocks stored, no pooler", label="file size, in MiB")
def _file_size_in_mib(evidence: Evidence) -> Found:
    explanation = "the card's M is MiB here, truncated to a whole number"
    return _whole(evidence, "file size", evidence.sizes["heads cut out fp32"] / 2**20, explanation)


@claim("file size", "MB", "the same in units of 10^6 bytes", label="file size, in MB")
def _file_size_in_mb(evidence: Evidence) -> Found:
    explanation = "in the unit of the original's size beside it, the file is larger"
    return Found(evidence.sizes["heads cut out fp32"] / 1e6, explanation)


@claim("original file size", "MB", "the dense model in fp32, with the pooler", label="original file size, in MB")
def _original_file_size(evidence: Evidence) -> Found:
    explanation = "MB of 10^6 bytes, and with a pooler that the pruned file does not have"
    return Found(evidence.sizes["dense fp32, pooler"] / 1e6, explanation)


@claim("original file size", "MiB", "the same with pretraining's two heads, in units of 2^20 bytes",
       label="original file size, of pretraining in MiB")  # fmt: skip
def _original_file_size_of_pretraining(evidence: Evidence) -> Found:
    config, hidden = evidence.loaded.model.config, evidence.loaded.model.config.hidden_size
    # dense layer, norm, and a bias per word; the next-sentence head is as large as the answer layer
    heads = hidden * hidden + hidden + 2 * hidden + config.vocab_size
    explanation = "BERT as published has a pooler and two heads that a question-answering model lacks"
    return _whole(
        evidence, "original file size", (evidence.sizes["dense fp32, pooler"] + 4 * heads) / 2**20, explanation
    )


def _whole(evidence: Evidence, name: str, ours: float, explanation: str) -> Found:
    """Cards truncate sizes to whole numbers."""
    text = evidence.stated.get(name)
    return Found(ours, explanation, REPRODUCED if text and int(ours) == float(text) else DIFFERS)


@claim("original parameters", "million", "parameters of the model before pruning")
def _original_parameters(evidence: Evidence) -> Found:
    explanation = "nn_pruning's cards print 152.0M to 218.0M for the very same BERT-base"
    return Found(evidence.summary.parameters / 1e6, explanation)


def _implied_saving(stated: Stated) -> str | None:
    file, original = stated.get("file size"), stated.get("original file size")
    return f"{100 * (1 - float(file) / float(original)):.1f}" if file and original else None


@claim("saving of the file", "%", "1 - file / original", implied=_implied_saving)
def _saving(evidence: Evidence) -> Found:
    file, original = evidence.sizes["heads cut out fp32"], evidence.sizes["dense fp32"]
    explanation = (
        f"like for like, fp32 without pooler in MB: {file / 1e6:.1f} against {original / 1e6:.1f}; "
        "the card does not print the ratio, but its two sizes suggest it"
    )
    return Found(100 * (1 - file / original), explanation)


WINDOWS = "windows of 320 tokens, at most 64 of them the question's, each starting 128 tokens after the last"


@claim("train samples", "windows", WINDOWS)
def _train_samples(evidence: Evidence) -> Found:
    return _samples(evidence, evidence.train, "train")


@claim("eval samples", "windows", WINDOWS)
def _eval_samples(evidence: Evidence) -> Found:
    return _samples(evidence, evidence.data, "validation")


def _samples(evidence: Evidence, asked: QuestionSet | None, split: str) -> Found:
    if other := _other_data(evidence):
        return Found(None, other, NOT_CHECKABLE)
    if asked is None or not asked.is_all_of(split):
        why = f"needs all {squad.SIZES[squad.V1][split]:,} questions of SQuAD v1.1 {split}; name the file"
        return Found(None, why, NOT_CHECKABLE)
    questions = [q.question for q in asked.questions]
    contexts = [q.context for q in asked.questions]
    count = windows.count_2019(evidence.loaded.tokenizer, questions, contexts)
    return Found(count, f"windows, not questions: {asked.description} has {len(asked):,} questions")


@claim("usage example", "text", "does the example run with the installed transformers?")
def _usage_example(evidence: Evidence) -> Found:
    task = evidence.stated.get("usage example")
    there = task in SUPPORTED_TASKS
    explanation = "with `from qalib import pipeline` instead of its imports it runs, and needs no `optimize_model`"
    if there:
        return Found("runs", explanation, REPRODUCED)
    return Found(f"transformers has no {task!r} pipeline", explanation, DIFFERS)


@claim("speedup", "x", "whole evaluation loop, dense / sparse")
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
        f"similar length without needless padding, for dense too, {best} gives {ours:.2f}x over dense; the card's "
        "figure is from one run on a GPU, with a runtime of its own",
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


@claim("exact match", "%", DEV)
def _exact_match(evidence: Evidence) -> Found:
    return _scored(evidence, "exact_match")


@claim("F1", "%", DEV)
def _f1(evidence: Evidence) -> Found:
    return _scored(evidence, "f1")


def _scored(evidence: Evidence, metric: str) -> Found:
    if other := _other_data(evidence):
        return Found(None, other, NOT_CHECKABLE)
    if evidence.score is None:
        return Found(None, "a structural twin has random weights", NEEDS_WEIGHTS)
    verdict = None if evidence.data.is_all_of("validation") else NOT_CHECKABLE
    return Found(evidence.score[metric], f"over {evidence.data.description}", verdict)


def _other_data(evidence: Evidence) -> str:
    """Why the card's figures are not over our questions; "" if they may be."""
    text = evidence.stated.get("data set")
    return f"the card's figures are over {text}, ours over SQuAD v1.1" if text and "1.1" not in text else ""


@claim("original exact match", "%", "BERT-base on SQuAD v1.1 dev")
def _original_exact_match(evidence: Evidence) -> Found:
    return _copied(evidence)


@claim("original F1", "%", "BERT-base on SQuAD v1.1 dev")
def _original_f1(evidence: Evidence) -> Found:
    return _copied(evidence)


def _copied(evidence: Evidence) -> Found:
    if other := _other_data(evidence):
        return Found(None, other, NOT_CHECKABLE)
    explanation = "copied from Table 2 of the BERT paper (arXiv 1810.04805); measured there, not by the card"
    return Found(None, explanation, NOT_CHECKABLE)


SUBTRACTED = "the card's figure minus the original's, both as the card prints them"


@claim("exact match over the original", "points", SUBTRACTED)
def _exact_match_over_the_original(evidence: Evidence) -> Found:
    return Found(_subtracted(evidence, "exact match"), "the card's own arithmetic, whatever its figures are worth")


@claim("F1 over the original", "points", SUBTRACTED)
def _f1_over_the_original(evidence: Evidence) -> Found:
    return Found(_subtracted(evidence, "F1"), "the card's own arithmetic, whatever its figures are worth")


@claim("F1 in words", "text", SUBTRACTED)
def _f1_in_words(evidence: Evidence) -> Found:
    gain = _subtracted(evidence, "F1")
    ours = None if gain is None else f"{'gain' if gain > 0 else 'drop'} of {abs(gain):.2f}"
    verdict = REPRODUCED if ours == evidence.stated.get("F1 in words") else DIFFERS
    return Found(ours, "the same in a sentence", verdict)


def _subtracted(evidence: Evidence, metric: str) -> float | None:
    both = [evidence.stated.get(name) for name in (metric, f"original {metric}")]
    return None if None in both else float(both[0]) - float(both[1])


@claim("layer norm", "text", "the normalisation within a layer")
def _layer_norm(evidence: Evidence) -> Found:
    ours = "NoNorms" if evidence.loaded.model.config.layer_norm_type == NO_NORM else "LayerNorms"
    verdict = REPRODUCED if ours == evidence.stated.get("layer norm") else DIFFERS
    return Found(ours, "as config.json says, and as the weights were loaded", verdict)


@claim("activation", "text", "the activation between the two FFN matrices")
def _activation(evidence: Evidence) -> Found:
    act = evidence.loaded.model.config.hidden_act
    verdict = REPRODUCED if act == "relu" and evidence.stated.get("activation") == "ReLUs" else DIFFERS
    return Found(act, "as config.json says", verdict)


@claim("machine", "text", "the machine that the card's timing was done on")
def _machine(evidence: Evidence) -> Found:
    return Found(None, "not the machine that the card names", NOT_CHECKABLE)
