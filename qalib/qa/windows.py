"""Windows: model inputs of a question and as much of its context as fits; a long context takes several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_LENGTH, OVERLAP, MAX_QUESTION = 384, 128, 64


@dataclass(frozen=True)
class Window:
    """One model input: `[CLS] question [SEP] a stretch of the context [SEP]`, or the tokenizer's equivalent.

    `ids` and `types` are the token and segment ids, shape `(length,)`. Tokens `first ... first+len(offsets)-1` are
    context; `offsets`, shape `(context tokens, 2)`, are their character spans in the context, and `words`, shape
    `(context tokens,)`, the ascending numbers of their words. `index` is the number of the pair.
    """

    index: int
    ids: np.ndarray
    types: np.ndarray
    first: int
    offsets: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def windows(
    tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int = MAX_LENGTH,
    overlap: int = OVERLAP,
    max_question: int | None = MAX_QUESTION,
) -> list[Window]:
    """Cut pairs of question and context into windows of at most `max_length` tokens that overlap by `overlap`.

    Questions keep their first `max_question` tokens (all if None). Windows come in the order of the pairs.
    Raises ValueError if question and overlap leave no room for context.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)  # 3 for BERT, 4 for RoBERTa
    if max_question is None:
        for question, context in zip(questions, contexts, strict=True):
            asked = _count(tokenizer, question)
            # A context that fits into one window needs no overlap.
            whole = asked + _count(tokenizer, context) + special
            if max_length < asked + overlap + special + 1 and max_length < whole:
                raise _no_room(max_length, asked, overlap, special)
    else:
        if max_length < max_question + overlap + special + 1:
            raise _no_room(max_length, max_question, overlap, special)
        questions = [_shortened(tokenizer, question, max_question) for question in questions]
    encoded = tokenizer(
        list(questions),
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
    )
    result = []
    for item, index in zip(encoded.encodings, encoded["overflow_to_sample_mapping"], strict=True):
        context = np.flatnonzero(np.array([s == 1 for s in item.sequence_ids]))
        first = int(context[0]) if len(context) else len(item.ids)
        offsets = np.array(item.offsets, dtype=np.int32)[context]
        ids, types = np.array(item.ids, dtype=np.int32), np.array(item.type_ids, dtype=np.int8)
        words = np.array(item.word_ids)[context].astype(np.int32)
        result.append(Window(index, ids, types, first, offsets, words))
    return result


def _no_room(max_length: int, question: int, overlap: int, special: int) -> ValueError:
    return ValueError(
        f"windows of {max_length} tokens have no room for {question} question tokens, "
        f"an overlap of {overlap} and {special} special tokens"
    )


def _count(tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _shortened(tokenizer, question: str, most: int) -> str:
    if question.isascii() and len(question) <= most:  # as a token then has at least one character
        return question
    offsets = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return question if len(offsets) <= most else question[: offsets[most - 1][1]]


def collate(batch: Sequence[Window], pad_id: int, length: int | None = None) -> dict[str, Tensor]:
    """Model inputs for a batch, each of shape `(batch, length)`; `length` defaults to the longest window's."""
    length = length or max(map(len, batch))
    shape = (len(batch), length)
    ids, types = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    attention = torch.zeros(shape, dtype=torch.long)
    for row, window in enumerate(batch):
        ids[row, : len(window)] = torch.from_numpy(window.ids)
        types[row, : len(window)] = torch.from_numpy(window.types)
        attention[row, : len(window)] = 1
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": attention}


def count_2019(
    tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int = 320,
    start_distance: int = 128,
    max_question: int = MAX_QUESTION,
) -> int:
    """How many windows `run_squad.py` made in 2019; the published cards call them samples.

    Each window *starts* `start_distance` context tokens after the last; today's tokenizers take an overlap instead.
    """
    unique = list(dict.fromkeys(contexts))
    sizes = dict(zip(unique, _token_counts(tokenizer, unique), strict=True))
    total = 0
    for asked, context in zip(_token_counts(tokenizer, questions), contexts, strict=True):
        room = max_length - min(asked, max_question) - 3
        total += 1 + max(0, -(-(sizes[context] - room) // start_distance))
    return total


def _token_counts(tokenizer, texts: Sequence[str]) -> list[int]:
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]
