"""Evaluation: answers to a whole question set, and how good they are.

Answers are found as in transformers' `run_qa.py`: windows of 384 tokens with an overlap of 128, in each the 20 best
starts and the 20 best ends, of their pairs the best of at most 30 tokens, and over the windows the best of all by
the sum of its two logits.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from qalib import runtimes
from qalib.model import bert, checkpoint
from qalib.qa import metric, squad
from qalib.qa.squad import Question, QuestionSet
from qalib.qa.windows import MAX_LENGTH, OVERLAP, Window, collate, windows
from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.quantity import measure

BEST, MAX_ANSWER = 20, 30
LENGTHS = 16  # batches are padded to multiples of it: with few shapes memory is used again
CHUNK = 2048  # questions whose windows are held at a time: memory does not grow with the question set
QUESTION_WORDS = ("what", "who", "when", "where", "which", "how", "why")


@dataclass(frozen=True)
class Protocol:
    """How windows are put into batches: `batch` windows each, by length or in file order, padded to the longest
    window of the batch or to `pad_to` tokens. Changes the time, not the answers."""

    batch: int = 32
    by_length: bool = True
    pad_to: int | None = None


OURS = Protocol()
USUAL = Protocol(by_length=False, pad_to=MAX_LENGTH)


@dataclass(frozen=True)
class Answers:
    """Answer texts by question id, and what finding them took."""

    texts: dict[str, str]
    windows: int = measure(
        "count", f"windows of at most {MAX_LENGTH} tokens that overlap by {OVERLAP} and cover question and context"
    )
    tokens: int = measure("tokens", "tokens of all windows")
    padded_tokens: int = measure("tokens", "tokens that the model was given, padding included")
    seconds: float = measure("s", "wall clock of the evaluation, texts in to answers out")
    model_seconds: float = measure("s", "wall clock of the model's forward passes, the largest over the processes")
    processes: int = measure("count", "processes that shared the questions")


def answer(
    model: nn.Module, tokenizer, questions: Sequence[Question], protocol: Protocol = OURS, progress: bool = True
) -> Answers:
    """Answer every question with a model on its device and in its type.

    Processes that were started together (`accelerate launch`, `crew`) share the questions, and all get all answers.
    """
    device = next(model.parameters(), torch.empty(0)).device
    crew = PartialState(cpu=device.type == "cpu")
    mine = questions[crew.process_index :: crew.num_processes]
    found = _answer(model, tokenizer, mine, protocol, device, progress and crew.is_main_process)
    parts = gather_object([found]) if crew.num_processes > 1 else [found]
    texts = {name: text for part in parts for name, text in part.texts.items()}
    sums = [sum(getattr(part, name) for part in parts) for name in ("windows", "tokens", "padded_tokens")]
    times = [max(getattr(part, name) for part in parts) for name in ("seconds", "model_seconds")]
    return Answers({q.id: texts[q.id] for q in questions}, *sums, *times, len(parts))


def _answer(
    model: nn.Module, tokenizer, questions: Sequence[Question], protocol: Protocol, device: torch.device, progress: bool
) -> Answers:
    texts, counts, model_seconds, began = {}, torch.zeros(3, dtype=torch.long), 0.0, time.perf_counter()
    with tqdm(total=len(questions), unit="question", desc="answering", disable=not progress) as bar:
        for first in range(0, len(questions), CHUNK):
            part = questions[first : first + CHUNK]
            cut = windows(tokenizer, [q.question for q in part], [q.context for q in part])
            best: dict[int, tuple[float, int, int]] = {}
            for batch in batches(cut, protocol):
                length = protocol.pad_to or min(-(-max(map(len, batch)) // LENGTHS) * LENGTHS, MAX_LENGTH)
                inputs = collate(batch, tokenizer.pad_token_id or 0, length)
                counts += torch.tensor([len(batch), sum(map(len, batch)), inputs["input_ids"].numel()])
                started = time.perf_counter()
                with torch.inference_mode():
                    output = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
                    starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
                model_seconds += time.perf_counter() - started
                for window, span in zip(batch, best_spans(starts, ends, batch), strict=True):
                    best[window.index] = max(best.get(window.index, span), span, key=lambda s: s[0])
                bar.update(len(best) + first - bar.n)
            for index, question in enumerate(part):
                texts[question.id] = question.context[slice(*best[index][1:])]
    total, tokens, padded = counts.tolist()
    return Answers(texts, total, tokens, padded, time.perf_counter() - began, model_seconds, 1)


def batches(cut: Sequence[Window], protocol: Protocol) -> Iterator[list[Window]]:
    """The windows in batches; by length the longest come first, so that what fits once fits to the end."""
    order = sorted(cut, key=len, reverse=True) if protocol.by_length else cut
    for first in range(0, len(order), protocol.batch):
        yield list(order[first : first + protocol.batch])


def best_spans(starts: Tensor, ends: Tensor, batch: Sequence[Window]) -> list[tuple[float, int, int]]:
    """The best span of each window: score, and first and last character + 1 of the context.

    `starts` and `ends` are logits, shape `(batch, length)`. A window without a valid span scores minus infinity.
    """
    position = torch.arange(starts.shape[1])
    first = torch.tensor([[w.first] for w in batch])
    last = torch.tensor([[w.first + len(w.offsets)] for w in batch])
    outside = (position < first) | (position >= last)
    count = min(BEST, starts.shape[1])
    top_starts, start_at = starts.masked_fill(outside, -torch.inf).topk(count)
    top_ends, end_at = ends.masked_fill(outside, -torch.inf).topk(count)
    length = end_at[:, None, :] - start_at[:, :, None] + 1
    sums = top_starts[:, :, None] + top_ends[:, None, :]
    scores, pair = sums.masked_fill((length < 1) | (length > MAX_ANSWER), -torch.inf).flatten(1).max(1)
    start_at = start_at.gather(1, pair[:, None] // count) - first
    end_at = end_at.gather(1, pair[:, None] % count) - first
    return [
        (score, int(window.offsets[start][0]), int(window.offsets[end][1])) if score > -torch.inf else (score, 0, 0)
        for window, score, start, end in zip(
            batch, scores.tolist(), start_at[:, 0].tolist(), end_at[:, 0].tolist(), strict=True
        )
    ]


@dataclass(frozen=True)
class Evaluation:
    """A scored run: the metric, the answers with their times, and the questions that were answered."""

    score: metric.Score
    answers: Answers
    question_set: QuestionSet

    @property
    def comparable_score(self) -> metric.Score:
        """The score as it may stand beside published ones: EM and F1 are None unless they are of all of SQuAD dev."""
        whole = self.question_set.is_all_of("validation")
        return self.score if whole else replace(self.score, exact_match=None, f1=None)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row a question (`per_question`), made when first asked for: with many questions it takes memory."""
        return per_question(self.question_set.questions, self.answers.texts)


def evaluate(
    model: nn.Module,
    tokenizer,
    questions: QuestionSet,
    protocol: Protocol = OURS,
    progress: bool = True,
    scored: bool = True,
) -> Evaluation:
    """Answer a question set and score the answers; unless `scored`, as for random weights, EM and F1 are None."""
    answers = answer(model, tokenizer, questions.questions, protocol, progress)
    score = metric.score(questions.questions, answers.texts)
    if not scored:
        score = replace(score, exact_match=None, f1=None)
    return Evaluation(score, answers, questions)


def run(
    model: str,
    data: str = "sample",
    runtime: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    questions: int | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Load, answer and score: what was run on what, and how it went. For the arguments see `qalib evaluate --help`."""
    place = machine.device(device)
    dtype = machine.dtype(dtype, place)
    PartialState(cpu=place == "cpu")  # joins the other processes, if there are any; each takes its GPU
    asked, loaded = squad.load(data).first(questions), checkpoint.load(model)
    if (places := bert.positions(loaded.model)) < MAX_LENGTH:
        raise InputError(f"{model}: windows of {MAX_LENGTH} tokens do not fit a model of {places} positions")
    name = runtime or runtimes.best(place)
    module, tokenizer, unscored = runtimes.build(name, loaded, place, dtype), loaded.tokenizer, loaded.unscored
    about = {
        "model": loaded.name,
        "data": asked.description,
        "runtime": name,
        "dtype": dtype + ", emulated" * machine.is_emulated(dtype, place),
        "device": place,
    }
    del loaded  # its weights are in the module, or not needed
    machine.trim()
    return about | ({"scores": unscored} if unscored else {}), evaluate(module, tokenizer, asked, scored=not unscored)


def per_question(questions: Sequence[Question], texts: dict[str, str]) -> pd.DataFrame:
    """One row a question; one without a prediction has an empty one and scores 0.

    The columns are id, question, context, prediction, references (a tuple), exact_match (0 or 1), f1 (0 to 1),
    question_word, answer_words (shortest reference) and context_words.
    """
    return pd.DataFrame(
        {
            "id": q.id,
            "question": q.question,
            "context": q.context,
            "prediction": texts.get(q.id, ""),
            "references": q.answers,
            "exact_match": metric.best(metric.exact_match, texts[q.id], q.answers) if q.id in texts else 0.0,
            "f1": metric.best(metric.f1, texts[q.id], q.answers) if q.id in texts else 0.0,
            "question_word": question_word(q.question),
            "answer_words": min(len(a.split()) for a in q.answers),
            "context_words": len(q.context.split()),
        }
        for q in questions
    )


def question_word(question: str) -> str:
    """The first question word in the text, wherever it stands ("In which year ...": which), or "other"."""
    return next((word for word in question.lower().replace("?", " ").split() if word in QUESTION_WORDS), "other")


def by_group(rows: pd.DataFrame, column: str, edges: Sequence[int] | None = None) -> pd.DataFrame:
    """EM and F1 in percent and the number of questions, for each value of a column or each range between `edges`."""
    keys = rows[column]
    if edges is not None:
        names = [f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        keys = pd.cut(keys, [*edges, float("inf")], right=False, labels=[*names, f"{edges[-1]} or more"])
    groups = rows.groupby(keys, observed=True)
    table = 100 * groups[["exact_match", "f1"]].mean()
    return table.assign(questions=groups.size()).reset_index()


def worst(rows: pd.DataFrame, count: int = 20) -> pd.DataFrame:
    """The questions with the lowest F1 (ties in file order), prediction and references side by side."""
    chosen = rows.sort_values("f1", kind="stable").head(count)
    return chosen[["id", "question", "prediction", "references", "f1"]].reset_index(drop=True)


def summary(evaluation: Evaluation) -> dict:
    """The score and the cost as one flat dictionary."""
    cost = {key: value for key, value in asdict(evaluation.answers).items() if key != "texts"}
    return asdict(evaluation.score) | cost
