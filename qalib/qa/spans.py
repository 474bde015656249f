"""Spans: from one window's logits to candidate answers, by the rules of the transformers 4 pipeline."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from qalib.qa.windows import Window

Answer = dict[str, Any]  # score, start, end, answer; start and end are character offsets in the context


def probabilities(logits: np.ndarray, window: Window) -> tuple[np.ndarray, np.floating]:
    """Softmax over [CLS] and the context: the probabilities of the context tokens, shape `(context tokens,)`, and of
    [CLS].

    `logits` has shape `(window length,)`. As in transformers 4, the softmax includes any further [CLS] in the text.
    """
    context = slice(window.first, window.first + len(window.offsets))
    allowed = window.ids == window.ids[0]
    allowed[context] = True
    logits = np.where(allowed, logits, -np.inf)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights[context], weights[0]


def candidates(
    start: np.ndarray, end: np.ndarray, limit: int, max_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The spans of at most `max_tokens` tokens with the highest `start[first] * end[last]`, best first.

    `start` and `end` are probabilities, shape `(tokens,)`. Returns first tokens, last tokens and scores, each of shape
    `(at most limit,)`. Among equal scores the earlier span comes first; spans of score 0 are left out.
    """
    first = np.arange(len(start))[:, None]
    last = first + np.arange(min(max_tokens, len(start)))
    end = np.append(end, np.zeros_like(end))  # no span ends after the last token
    scores = start[:, None] * end[last]
    order = np.argsort(-scores, axis=None, kind="stable")[:limit]
    order = order[scores.ravel()[order] > 0]
    row, column = order // max(last.shape[1], 1), order % max(last.shape[1], 1)
    return row, row + column, scores[row, column]


def word_spans(window: Window) -> np.ndarray:
    """For each context token, the character span of its word within the window; shape `(context tokens, 2)`."""
    first = np.searchsorted(window.words, window.words, side="left")
    last = np.searchsorted(window.words, window.words, side="right") - 1
    return np.stack([window.offsets[first, 0], window.offsets[last, 1]], axis=1)


def merged(answers: Iterable[Answer]) -> list[Answer]:
    """Answers with the same text (ignoring case) merged: position of the first, sum of the scores."""
    result: dict[str, Answer] = {}
    for answer in answers:
        known = result.setdefault(answer["answer"].lower(), answer | {"score": 0.0})
        known["score"] += answer["score"]
    return list(result.values())


def best(answers: list[Answer], top_k: int) -> Answer | list[Answer]:
    """The `top_k` answers with the highest scores; a single one without the list, the empty one if there are none."""
    found = sorted(answers, key=lambda answer: answer["score"], reverse=True)[:top_k] or [as_answer(0, 0, 0, "")]
    return found[0] if len(found) == 1 else found


def as_answer(score: float, start: int, end: int, text: str) -> Answer:
    """An answer in the pipeline's form."""
    return {"score": float(score), "start": start, "end": end, "answer": text}
