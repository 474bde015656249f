"""The `question-answering` pipeline that transformers 5 no longer has: answers to questions about texts.

Calls, options, defaults and results are those of transformers 4.57.1 (QuestionAnsweringPipeline, fast tokenizer); early
versions of 4 did not yet add up the scores of equal texts:

1. Question and context are cut into windows; the model gives every token a start logit and an end logit.
2. In each window a softmax over [CLS] and the context turns them into probabilities. A candidate is a span of at most
   `max_answer_len` tokens with the score p(start) * p(end); each window keeps its best `2 * top_k + 10`.
3. Candidates are widened to whole words. Those that read the same (ignoring case) become one answer: position of the
   first, sum of the scores. As each window has its own softmax, a score over several windows can exceed 1.

An answer includes the combining marks, variation selectors and joiners that follow its last letter; transformers 4 cuts
them off. It also differs where transformers 4 crashes or answers at random: spans of score 0, which transformers adds
in a CPU-dependent order when there are too few good ones, are left out; among equal candidates the earlier one wins;
answers lie in the context even if the question contains "[CLS]"; a question that leaves no room for its context raises
ValueError; unless `max_seq_len` is given, windows are no longer than the model allows; a dict with a list of questions
and one context pairs them all; other keys of a dict are ignored; options of the wrong type raise ValueError, unknown
ones TypeError.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from types import GeneratorType
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoTokenizer

from qalib.model import checkpoint
from qalib.model.bert import max_tokens
from qalib.model.checkpoint import Checkpoint
from qalib.model.tokenizers import load_tokenizer
from qalib.qa import spans
from qalib.qa.pairs import Pair, call_inputs, pairs_of
from qalib.qa.spans import Answer
from qalib.qa.windows import Window, collate, windows
from qalib.utils.errors import InputError
from qalib.utils.output import ShownInNotebooks
from qalib.utils.paths import BUNDLED

TASK = "question-answering"
PADDINGS = (False, True, "do_not_pad", "longest", "max_length")


@dataclass(frozen=True)
class Options:
    """What can be set for a pipeline or for one call; None means the default in the comment.

    `max_question_len` and `num_workers` only keep old calls working: with a fast tokenizer transformers 4 never
    shortens questions, and windows are cut in this process.
    Any padding but `max_length` pads to the longest window of a batch, and no result depends on it.
    """

    top_k: int = 1
    doc_stride: int | None = None  # min(max_seq_len // 2, 128); the overlap of two windows, in tokens
    max_answer_len: int = 15
    max_seq_len: int | None = None  # min(the tokenizer's model_max_length, the model's positions, 384)
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    padding: bool | str = False
    batch_size: int = 1
    num_workers: int = 0

    def __post_init__(self):
        for name in (field.name for field in fields(self) if field.type in (int, int | None)):
            if not isinstance(value := getattr(self, name), Integral | None):
                raise ValueError(f"{name} should be a whole number (got {value!r})")
        for name in ("handle_impossible_answer", "align_to_words"):
            if (value := getattr(self, name)) not in (True, False):
                raise ValueError(f"{name} should be True or False (got {value!r})")
        for name in ("top_k", "max_answer_len", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be >= 1 (got {getattr(self, name)})")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding {self.padding!r} is not one of {', '.join(map(repr, PADDINGS))}")

    def updated(self, given: dict[str, Any]) -> "Options":
        """These options, with those of `given` that are not None in place of them. Raises ValueError and TypeError."""
        given = {name: value for name, value in given.items() if value is not None}
        if "topk" in given:
            warnings.warn("topk is deprecated, use top_k instead", UserWarning, stacklevel=3)
            given = {"top_k": given["topk"]} | {name: value for name, value in given.items() if name != "topk"}
        known = [field.name for field in fields(self)]
        if unknown := [name for name in given if name not in known]:
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(known)}")
        return replace(self, **given)


class QuestionAnswering(ShownInNotebooks):
    """A model with its tokenizer, called with questions and contexts; made by `pipeline`."""

    task = TASK

    def __init__(self, model: nn.Module, tokenizer, options: Options, name: str = ""):
        if options.max_seq_len is None:
            options = replace(options, max_seq_len=min(tokenizer.model_max_length, max_tokens(model) or 384, 384))
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        self.name = name or type(model).__name__

    def __repr__(self) -> str:
        set_here, usual = asdict(self.options), asdict(Options(max_seq_len=self.options.max_seq_len))
        changed = [f"{name} {value}" for name, value in set_here.items() if value != usual[name]]
        return (
            f"{TASK} pipeline: {self.name}\n"
            f"  on {self.device}, windows of at most {self.options.max_seq_len} tokens\n"
            f"  options: {', '.join(changed) or 'all by default'}"
        )

    @property
    def device(self) -> torch.device:
        """The model's device."""
        tensor = next(self.model.parameters(), next(self.model.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @staticmethod
    def create_sample(question: str | list[str], context: str | list[str]) -> dict[str, str | list[str]]:
        """One question with its context, or lists of them, in a form that a call takes."""
        return {"question": question, "context": context}

    def __call__(self, *args, question=None, context=None, data=None, X=None, **options) -> Any:
        """Answer one question or many.

        Takes `question=` and `context=` (two strings, two lists of equal length, or a list of questions on one
        context), or a dict with these keys, a list of such dicts, two strings, or a generator or torch Dataset of
        dicts; the last two are answered lazily. `data=` and `X=` take the same, but not two strings. A list of one is
        answered like its only element.

        An answer is a dict: `score`, `start`, `end`, `answer`, with `context[start:end] == answer`. With `top_k` over 1
        each question gets a list of at most `top_k`, best first; a single answer comes without the list.

        Raises ValueError for an empty question or context or an invalid option value, KeyError for a missing key.
        """
        options = self.options.updated(options)
        inputs = call_inputs(args, question, context, data, X)
        if isinstance(inputs, (GeneratorType, Dataset)):
            return (self._answers([item], options) for item in inputs)
        plural = isinstance(inputs, Iterable) and not isinstance(inputs, Mapping)
        return self._answers(list(inputs) if plural else [inputs], options)

    def _answers(self, items: list, options: Options) -> Answer | list:
        answers = self._by_pair([pair for item in items for pair in pairs_of(item)], options)
        return answers[0] if len(items) == 1 and isinstance(items[0]["question"], str) else answers

    def _by_pair(self, pairs: Sequence[Pair], options: Options) -> list[Answer | list[Answer]]:
        found: list[list[Answer]] = [[] for _ in pairs]
        null = [1.0] * len(pairs)
        cut = self._windows(pairs, options)
        for window, (start, end) in zip(cut, self._logits(cut, options), strict=True):
            start, no_start = spans.probabilities(start, window)
            end, no_end = spans.probabilities(end, window)
            null[window.index] = min(null[window.index], float(no_start * no_end))
            # Several candidates may widen to the same words.
            most = 2 * options.top_k + 10 if options.align_to_words else options.top_k
            characters = spans.word_spans(window) if options.align_to_words else window.offsets
            for first, last, score in zip(*spans.candidates(start, end, most, options.max_answer_len), strict=True):
                place = int(characters[first, 0]), int(characters[last, 1])
                text = pairs[window.index][1][slice(*place)]
                found[window.index].append(spans.as_answer(score, *place, text))
        merged = [spans.merged(answers) for answers in found]
        if options.handle_impossible_answer:
            for answers, score in zip(merged, null, strict=True):
                answers.append(spans.as_answer(score, 0, 0, ""))
        return [spans.best(answers, options.top_k) for answers in merged]

    def _windows(self, pairs: Sequence[Pair], options: Options) -> list[Window]:
        """The windows of transformers 4: unlike those used in evaluation, they hold the whole question."""
        if not pairs:
            return []
        longest = cast(int, options.max_seq_len)  # set by __init__
        overlap = options.doc_stride
        overlap = min(longest // 2, 128) if overlap is None else overlap
        if not 0 <= overlap <= longest:
            raise ValueError(f"doc_stride ({overlap}) is negative or larger than max_seq_len ({longest})")
        questions, contexts = zip(*pairs, strict=True)
        cut = windows(self.tokenizer, questions, contexts, longest, overlap, max_question=None)
        places = max_tokens(self.model)
        if places and (length := max(map(len, cut))) > places:
            raise ValueError(
                f"windows of {length} tokens do not fit a model with {places} positions; lower max_seq_len"
            )
        return cut

    @torch.inference_mode()
    def _logits(self, cut: Sequence[Window], options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
        """Start and end logits of each window, both of shape `(its length,)`, float32."""
        device = self.device
        fixed = options.max_seq_len if options.padding == "max_length" else None
        result = []
        for at in range(0, len(cut), options.batch_size):
            batch = cut[at : at + options.batch_size]
            inputs = collate(batch, self.tokenizer.pad_token_id or 0, fixed)
            output = self.model(**{name: tensor.to(device) for name, tensor in inputs.items()})
            pair = output[:2] if isinstance(output, tuple) else (output["start_logits"], output["end_logits"])
            start, end = (logits.float().cpu().numpy() for logits in pair)
            result += [(start[row, : len(window)], end[row, : len(window)]) for row, window in enumerate(batch)]
        return result


def pipeline(
    task: str = TASK,
    model: str | Path | Checkpoint | nn.Module = "bundled",
    *,
    tokenizer=None,
    device: int | str | torch.device | None = None,
    **options,
) -> QuestionAnswering:
    """A question-answering pipeline, called like that of transformers 4: `pipeline(...)(question=..., context=...)`.

    `model` is anything `checkpoint.load` takes, a Checkpoint, or a torch module called like BertForQuestionAnswering.
    `tokenizer` is a fast tokenizer or the name or folder of one; a Checkpoint has its own, a module needs one.
    `device` is a torch device or the number of a GPU, below 0 for the CPU. Without it, a model loaded here goes to the
    first GPU if there is one, and any other stays where it is. `options` are the fields of Options.

    Raises ValueError for another task or a module without a tokenizer, InputError if something cannot be loaded.
    """
    if task != TASK:
        raise ValueError(f"{task!r}: the only task supported is {TASK!r}")
    options = Options().updated(options)
    if isinstance(tokenizer, (str, Path)):
        same = isinstance(model, (str, Path)) and str(tokenizer) == str(model)
        tokenizer = None if same else _tokenizer(str(tokenizer))
    if isinstance(model, (str, Path)):
        model = checkpoint.load(model)
        device = 0 if device is None else device
    name = ""
    if isinstance(model, Checkpoint):
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        name, model = model.name, cast(nn.Module, model.model)
    if tokenizer is None:
        raise ValueError("a model that is not a checkpoint needs a tokenizer: pipeline(..., tokenizer=...)")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; only those know where their tokens are")
    if isinstance(device, int):
        device = f"cuda:{device}" if device >= 0 and torch.cuda.is_available() else "cpu"
    return QuestionAnswering(model if device is None else model.to(device), tokenizer, options, name)


def answer(question: str, context: str, model: str | Path | Checkpoint = "bundled", **options) -> Answer | list[Answer]:
    """One answer, or the best `top_k`, without keeping a pipeline."""
    return pipeline(model=model, **options)(question=question, context=context)


def _tokenizer(name: str):
    folder = BUNDLED if name == "bundled" else Path(name)
    if folder.is_dir():
        return load_tokenizer(folder)
    identifier, _, revision = name.partition("@")
    try:
        return AutoTokenizer.from_pretrained(identifier, revision=revision or "main", trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{name}: no tokenizer there that can be read: {' '.join(str(error).split())}") from None
