"""Windows: model inputs of a question and as much of its context as fits; a long context takes several."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qalib.utils.errors import InputError, is_panic, one_line

MAX_LENGTH, OVERLAP, MAX_QUESTION = 384, 128, 64
CHARACTERS = 1_000_000  # of questions and contexts tokenized at a time: a tokenizer's encodings are 20 times a Window's


@dataclass(frozen=True)
class Window:
    """One model input: `[CLS] question [SEP] a stretch of the context [SEP]`, or the tokenizer's equivalent.

    `ids` and `types` are the token and segment ids, shape `(length,)`. Tokens `first ... first+len(offsets)-1` are
    context; `offsets`, shape `(context tokens, 2)`, are their character spans in the context, each with the marks that
    follow its last letter, and `words`, shape `(context tokens,)`, the ascending numbers of their words. `index` is the
    number of the pair.
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
        questions = _shortened(tokenizer, questions, max_question)
    lengths = [len(question) + len(context) for question, context in zip(questions, contexts, strict=True)]
    result = []
    for part in slices(lengths, CHARACTERS):
        result += _cut(tokenizer, questions[part], contexts[part], part.start, max_length, overlap)
    return result


def slices(sizes: Sequence[int], most: int, items: int | None = None) -> Iterator[slice]:
    """Consecutive slices of sequences whose elements have these sizes: each of one element, or of at most `items` with
    sizes that add up to `most` at most.

    >>> list(slices([3, 3, 3, 9, 1], 6))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    first, total = 0, 0
    for at, size in enumerate(sizes):
        if at > first and (total + size > most or at - first == items):
            yield slice(first, at)
            first, total = at, 0
        total += size
    if sizes:
        yield slice(first, len(sizes))


def _cut(
    tokenizer, questions: Sequence[str], contexts: Sequence[str], number: int, max_length: int, overlap: int
) -> list[Window]:
    """The windows of pairs, the first of which has this number."""
    encoded = _encode(
        tokenizer,
        list(questions),
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_token_type_ids=False,  # what is needed is in the encodings
    )
    result = []
    for item, index in zip(encoded.encodings, encoded["overflow_to_sample_mapping"], strict=True):
        parts = item.sequence_ids  # 0 for the question, 1 for the context, None for special tokens
        first = parts.index(1) if 1 in parts else len(parts)
        context = slice(first, first + parts.count(1))
        offsets = np.array(item.offsets[context], dtype=np.int32).reshape(-1, 2)
        offsets[:, 1] = _ends_after_marks(contexts[int(index)], offsets[:, 1])
        ids, types = np.array(item.ids, dtype=np.int32), np.array(item.type_ids, dtype=np.int8)
        words = np.array(item.word_ids[context], dtype=np.int32)
        result.append(Window(number + index, ids, types, first, offsets, words))
    return result


def extends(character: str) -> bool:
    """Does a character belong to the one before it, as combining marks, variation selectors, joiners, skin tones and
    the tags of flags do (roughly Grapheme_Extend of Unicode TR 29)?

    >>> [extends(character) for character in "e\u0301"]
    [False, True]
    """
    tone_or_tag = "\U0001f3fb" <= character <= "\U0001f3ff" or "\U000e0020" <= character <= "\U000e007f"
    return unicodedata.category(character).startswith("M") or character in "\u200c\u200d" or tone_or_tag


def _ends_after_marks(text: str, ends: np.ndarray) -> np.ndarray:
    """Move the `ends` of spans in a text, shape `(spans,)`, behind what `extends` their last character.

    Tokenizers leave most of it out.
    """
    if not text or max(text) < "\u0300":  # the first mark
        return ends
    moved = np.arange(len(text) + 1, dtype=np.int32)
    for at in range(len(text) - 1, 0, -1):
        if text[at] >= "\u0300" and extends(text[at]):
            moved[at] = moved[at + 1]
    return moved[ends]


def _no_room(max_length: int, question: int, overlap: int, special: int) -> ValueError:
    return ValueError(
        f"windows of {max_length} tokens have no room for {question} question tokens, "
        f"an overlap of {overlap} and {special} special tokens"
    )


def _count(tokenizer, text: str) -> int:
    return len(_encode(tokenizer, text, add_special_tokens=False)["input_ids"])


def _encode(tokenizer, *texts: str | list[str], **options):
    """What a tokenizer returns. Raises InputError if it panics, as for a regular expression that takes too long."""
    try:
        return tokenizer(*texts, return_attention_mask=False, verbose=False, **options)
    except BaseException as error:
        if not is_panic(error):
            raise
        raise InputError(f"{tokenizer.name_or_path}: the tokenizer cannot be used: {one_line(error)}") from None


def _shortened(tokenizer, questions: Sequence[str], most: int) -> list[str]:
    short = list(questions)
    # In ASCII a token has at least one character.
    at = [n for n, question in enumerate(short) if len(question) > most or not question.isascii()]
    if at:
        long = [short[n] for n in at]
        encoded = _encode(tokenizer, long, add_special_tokens=False, return_offsets_mapping=True)
        for n, offsets in zip(at, encoded["offset_mapping"], strict=True):
            short[n] = short[n] if len(offsets) <= most else short[n][: offsets[most - 1][1]]
    return short


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
    return [len(ids) for ids in _encode(tokenizer, list(texts), add_special_tokens=False)["input_ids"]]
