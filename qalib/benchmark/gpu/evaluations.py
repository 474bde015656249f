"""Whole evaluations on a GPU: of the bundled model, for its scores, and of the twin as the published card timed it."""

from dataclasses import fields
from typing import Any

from qalib import runtimes
from qalib.benchmark.end_to_end import WARMUP
from qalib.benchmark.gpu.settings import Rows, Settings, model_of, tried
from qalib.qa import evaluation, squad
from qalib.qa.answering import Answers, answer
from qalib.qa.batching import PADDED, BatchingConfig

CARDS_BATCHING = BatchingConfig(batch_size=16, sort_by_length=False, pad_to=PADDED.pad_to)


def evaluate(settings: Settings) -> None:
    """The bundled model over the whole question set, under several runtimes: scores and seconds."""
    rows = Rows(settings, "evaluation")
    model = dict(settings.models).get("evaluation", "bundled")
    dtype = "bf16" if settings.device == "cuda" else "fp32"
    for name in settings.evaluated:

        def run(name: str = name) -> dict[str, Any]:
            about, found = evaluation.load_and_evaluate(
                model, settings.data, name, dtype, settings.device, settings.questions
            )
            return about | evaluation.summary(found)

        rows.add({"runtime": name} | tried(run))


def card(settings: Settings) -> None:
    """The twin over the whole question set in batches of 16, in file order, padded to 384 tokens; no scores.

    Each way answers the first questions once before. `speedup` is in seconds of forward passes, over the way that
    `over` names, the first that works; `speedup_in_all` in seconds from texts to answers.
    """
    rows = Rows(settings, "card")
    questions = squad.load(settings.data).first(settings.questions).questions
    first: tuple[str, Answers] | None = None
    with model_of("card", settings) as loaded:
        for name, dtype in settings.on_the_card:

            def run(name: str = name, dtype: str = dtype) -> dict[str, Any]:
                nonlocal first
                module = runtimes.build(name, loaded, settings.device, dtype)
                for asked in (questions[:WARMUP], questions):
                    found = answer(module, loaded.tokenizer, asked, CARDS_BATCHING, progress=False)
                first = first or (f"{name} {dtype}", found)
                ratios = {
                    "over": first[0],
                    "speedup": first[1].model_seconds / found.model_seconds,
                    "speedup_in_all": first[1].seconds / found.seconds,
                }
                return {field.name: getattr(found, field.name) for field in fields(found) if field.metadata} | ratios

            rows.add({"runtime": name, "dtype": dtype} | tried(run))
