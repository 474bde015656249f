"""Answering: a whole question set in batches of windows.

Answers are found as in transformers' `run_qa.py`, in windows of 384 tokens with an overlap of 128. In each window the
20 best starts are paired with the 20 best ends. The answer is the pair with the highest sum of logits in any window,
among those of at most 30 tokens. A window's null score is the sum of both logits of its first token, [CLS]; the lowest
over the windows is the question's, to be compared with the best answer's score if there may be no answer (SQuAD v2.0).
"""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from qalib.qa.batching import LENGTH_SORTED, BatchingConfig, batches, padded
from qalib.qa.squad import Question
from qalib.qa.windows import MAX_LENGTH, OVERLAP, Window, slices, windows
from qalib.utils.prefetch import prefetch
from qalib.utils.quantity import measure

N_BEST = 20  # starts and ends of a window that are combined
MAX_ANSWER_LENGTH = 30  # tokens
CHUNK = 2048  # questions whose windows are held at a time: memory does not grow with the question set
CHUNK_CHARACTERS = 10_000_000  # the same, of long contexts
Span = tuple[float, int, int]  # score, first character and last + 1 in the context
Batch = tuple[list[Window], dict[str, Tensor]]  # windows and the model's inputs, each of shape `(windows, length)`
Chunk = tuple[Sequence[Question], Iterable[Batch]]
Chunks = Generator[Chunk, None, None]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Size and cost of answering a question set."""

    windows: int = measure(
        "count", f"windows of at most {MAX_LENGTH} tokens that overlap by {OVERLAP} and cover question and context"
    )
    tokens: int = measure("tokens", "tokens of all windows")
    padded_tokens: int = measure("tokens", "tokens that the model was given, padding included")
    seconds: float = measure("s", "wall clock of the evaluation, texts in to answers out")
    model_seconds: float = measure("s", "wall clock of the model's forward passes, the largest over the processes")
    processes: int = measure("count", "processes that shared the questions")


@dataclass(frozen=True, kw_only=True)
class Answers(Workload):
    """Answer texts and null score differences (null score - best answer's) by question id, and the cost of them.

    A question without any candidate has the text "", and as its difference the null score, as in transformers.
    """

    texts: dict[str, str]
    null_score_diffs: dict[str, float]

    def with_no_answers(self, null_score_diff_threshold: float = 0.0) -> "Answers":
        """These answers, the empty text for questions whose null score difference is above the threshold."""
        diffs = self.null_score_diffs
        texts = {key: "" if diffs[key] > null_score_diff_threshold else text for key, text in self.texts.items()}
        return replace(self, texts=texts)


def answer(
    model: nn.Module,
    tokenizer,
    questions: Sequence[Question],
    batching: BatchingConfig = LENGTH_SORTED,
    progress: bool = True,
) -> Answers:
    """Answer every question with a model on its device and in its type.

    Processes that were started together (`accelerate launch`, `distributed.run`) share the questions, and all get all
    answers.
    """
    device = device_of(model)
    crew = PartialState(cpu=device.type == "cpu")
    mine = questions[crew.process_index :: crew.num_processes]
    found = _answer(model, tokenizer, mine, batching, device, progress and crew.is_main_process)
    shares = gather_object([found]) if crew.num_processes > 1 else [found]
    return _gathered(shares, questions)


@dataclass
class _Cost:
    """What answering has taken so far (as in Answers)."""

    windows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    model_seconds: float = 0.0

    def add(self, batch: Sequence[Window], inputs: dict[str, Tensor], seconds: float) -> None:
        self.windows += len(batch)
        self.tokens += sum(map(len, batch))
        self.padded_tokens += inputs["input_ids"].numel()
        self.model_seconds += seconds


def _answer(
    model: nn.Module,
    tokenizer,
    questions: Sequence[Question],
    batching: BatchingConfig,
    device: torch.device,
    progress: bool,
) -> Answers:
    """The share of one process."""
    began = time.perf_counter()
    texts: dict[str, str] = {}
    diffs: dict[str, float] = {}
    cost = _Cost()
    with (
        tqdm(total=len(questions), unit="question", desc="answering", disable=not progress) as bar,
        closing(chunks(tokenizer, questions, batching, device)) as parts,
    ):
        for chunk, made in parts:
            found = _answer_chunk(model, chunk, made, device, cost, bar)
            texts |= {question.id: text for question, (text, _) in zip(chunk, found, strict=True)}
            diffs |= {question.id: diff for question, (_, diff) in zip(chunk, found, strict=True)}
    seconds = time.perf_counter() - began
    return Answers(texts=texts, null_score_diffs=diffs, seconds=seconds, processes=1, **asdict(cost))


def chunks(tokenizer, questions: Sequence[Question], batching: BatchingConfig, device: torch.device) -> Chunks:
    """The questions, CHUNK at a time, with the batches of their windows.

    For a GPU a thread makes those of the next chunk while the model runs: cutting windows takes longer than the model.
    On a CPU both want the same cores, and the batches are made one by one.
    """
    lazy = _chunks(tokenizer, questions, batching)
    return prefetch((chunk, list(batches)) for chunk, batches in lazy) if device.type == "cuda" else lazy


def _chunks(tokenizer, questions: Sequence[Question], batching: BatchingConfig) -> Chunks:
    pad_id = tokenizer.pad_token_id or 0

    def made(chunk: Sequence[Question]) -> Iterator[Batch]:
        cut = windows(tokenizer, [q.question for q in chunk], [q.context for q in chunk])
        return ((batch, padded(batch, pad_id, batching)) for batch in batches(cut, batching))

    for part in slices([len(q.question) + len(q.context) for q in questions], CHUNK_CHARACTERS, CHUNK):
        chunk = questions[part]
        yield chunk, made(chunk)


def _answer_chunk(
    model: nn.Module, questions: Sequence[Question], made: Iterable[Batch], device: torch.device, cost: _Cost, bar: tqdm
) -> list[tuple[str, float]]:
    """The answer texts and null score differences of questions from the batches of all their windows."""
    best: dict[int, Span] = {}
    null: dict[int, float] = {}
    for batch, inputs in made:
        started = time.perf_counter()
        starts, ends = logits(model, inputs, device)
        cost.add(batch, inputs, time.perf_counter() - started)
        before = len(best)
        null_scores = (starts[:, 0] + ends[:, 0]).tolist()
        for window, span, null_score in zip(batch, best_spans(starts, ends, batch), null_scores, strict=True):
            best[window.index] = max(best.get(window.index, span), span, key=lambda s: s[0])
            null[window.index] = min(null[window.index], null_score) if window.index in null else null_score
        bar.update(len(best) - before)
    return [
        (question.context[start:end], null[index] - score if score > -torch.inf else null[index])
        for index, question in enumerate(questions)
        for score, start, end in [best[index]]
    ]


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters; the CPU for one that holds none, as another library's."""
    return next(model.parameters(), torch.empty(0)).device


def logits(model: nn.Module, inputs: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Start and end logits of a batch, each of shape `(batch, length)`, float32 on the CPU."""
    with torch.inference_mode():
        output = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        return output.start_logits.float().cpu(), output.end_logits.float().cpu()


def _gathered(shares: Sequence[Answers], questions: Sequence[Question]) -> Answers:
    """The answers of all processes as one: counts add up, times are the longest."""
    texts = {identifier: text for share in shares for identifier, text in share.texts.items()}
    diffs = {identifier: diff for share in shares for identifier, diff in share.null_score_diffs.items()}
    return Answers(
        texts={question.id: texts[question.id] for question in questions},
        null_score_diffs={question.id: diffs[question.id] for question in questions},
        windows=sum(share.windows for share in shares),
        tokens=sum(share.tokens for share in shares),
        padded_tokens=sum(share.padded_tokens for share in shares),
        seconds=max(share.seconds for share in shares),
        model_seconds=max(share.model_seconds for share in shares),
        processes=len(shares),
    )


def best_spans(starts: Tensor, ends: Tensor, batch: Sequence[Window]) -> list[Span]:
    """The best span of each window.

    `starts` and `ends` are logits, shape `(batch, length)`. A window without a valid span scores minus infinity.
    """
    position = torch.arange(starts.shape[1])
    first = torch.tensor([[w.first] for w in batch])
    last = torch.tensor([[w.first + len(w.offsets)] for w in batch])
    outside = (position < first) | (position >= last)
    count = min(N_BEST, starts.shape[1])
    top_starts, start_at = starts.masked_fill(outside, -torch.inf).topk(count)
    top_ends, end_at = ends.masked_fill(outside, -torch.inf).topk(count)
    length = end_at[:, None, :] - start_at[:, :, None] + 1
    sums = top_starts[:, :, None] + top_ends[:, None, :]
    scores, pair = sums.masked_fill((length < 1) | (length > MAX_ANSWER_LENGTH), -torch.inf).flatten(1).max(1)
    start_at = start_at.gather(1, pair[:, None] // count) - first
    end_at = end_at.gather(1, pair[:, None] % count) - first
    return [
        (score, int(window.offsets[start][0]), int(window.offsets[end][1])) if score > -torch.inf else (score, 0, 0)
        for window, score, start, end in zip(
            batch, scores.tolist(), start_at[:, 0].tolist(), end_at[:, 0].tolist(), strict=True
        )
    ]
