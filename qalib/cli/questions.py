"""Commands that answer questions: one, or a whole set with a score."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qalib.cli import summaries
from qalib.cli.console import (
    RUNTIME_NAMES,
    Data,
    Device,
    Dtype,
    Json,
    Model,
    Questions,
    print_groups,
    print_json,
    writable,
)
from qalib.utils.errors import InputError, without_controls


def answer(
    question: str,
    context: str,
    model: Model = "bundled",
    top_k: Annotated[int, typer.Option(help="How many answers to give.")] = 1,
    as_json: Json = False,
) -> None:
    """Answer a question from a text."""
    from qalib import pipeline

    ask = pipeline("question-answering", model=model)
    try:
        answers = ask(question=question, context=context, top_k=top_k)
    except ValueError as error:
        raise InputError(str(error)) from None
    answers = answers if isinstance(answers, list) else [answers]
    if as_json:
        print_json({"answers": answers})
    else:
        for candidate in answers:
            span = f"characters {candidate['start']} to {candidate['end']}"
            print(f"{without_controls(candidate['answer'])}  (score {candidate['score']:.3f}, {span})")


def evaluate(
    model: Model = "bundled",
    data: Data = "sample",
    runtime: Annotated[
        str | None,
        typer.Option(
            help=f"{RUNTIME_NAMES}.",
            show_default="block-sparse if its kernel is compiled, else compact",
        ),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = Device.auto,
    questions: Questions = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write the answers to this file, {question id: text}.", callback=writable)
    ] = None,
    null_odds: Annotated[
        Path | None,
        typer.Option(
            help="v2.0: write null score - best answer's to this file, {question id: number}.", callback=writable
        ),
    ] = None,
    null_score_diff_threshold: Annotated[
        float | None, typer.Option(help="v2.0: give no answer where that difference is above this, 0 unless given.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share the questions, each with its own cores.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Answer a question set and score the answers: exact match and F1."""
    from qalib.qa import evaluation
    from qalib.utils import distributed, files

    place = device.value
    if null_odds is not None and null_score_diff_threshold is None:
        null_score_diff_threshold = 0.0
    about, result = distributed.run(
        processes, evaluation.load_and_evaluate, model, data, runtime, dtype, place, questions,
        null_score_diff_threshold,
    )  # fmt: skip
    if distributed.is_main_process():
        if as_json:  # first, in case the disk is full
            print_json(about | evaluation.summary(result))
        else:
            print_groups(summaries.of_evaluation(about, result))
        if predictions is not None:
            files.write_json(predictions, result.answers.texts)
        if null_odds is not None:
            files.write_json(null_odds, result.answers.null_score_diffs)


def score(
    data: str,
    predictions: Path,
    na_prob_file: Annotated[
        Path | None, typer.Option(help="v2.0: {question id: number}, how sure it is that there is no answer.")
    ] = None,
    na_prob_thresh: Annotated[
        float | None, typer.Option(help="v2.0: above this a prediction counts as empty, 1 unless given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a prediction file with the official SQuAD metric, v1.1 or v2.0 to match the question set."""
    from qalib.qa import metric, metric_v2, squad

    question_set = squad.load(data)
    texts = metric.read_predictions(predictions)
    odds = na_prob_file and metric_v2.read_na_probs(na_prob_file)
    if na_prob_thresh is not None and odds is None:
        raise InputError(f"--na-prob-thresh {na_prob_thresh}: needs --na-prob-file")
    try:
        if question_set.version == squad.V2:
            result = metric_v2.score(
                question_set.questions, texts, odds, 1.0 if na_prob_thresh is None else na_prob_thresh
            )
        elif odds is not None:
            raise InputError(f"{data} is of SQuAD v1.1, where every question has an answer; --na-prob-file is for v2.0")
        else:
            result = metric.score(question_set.questions, texts)
    except InputError as error:
        raise InputError(f"{', '.join(str(path) for path in (predictions, na_prob_file) if path)}: {error}") from None
    if as_json:
        print_json(asdict(result))
    else:
        print_groups({"": summaries.of_score(result)})
