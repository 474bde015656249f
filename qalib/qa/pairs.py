"""Pairs: the many kinds of pipeline input that transformers 4 accepted, turned into pairs of question and context."""

import re
from collections.abc import Mapping
from typing import Any

Pair = tuple[str, str]  # question, context


def call_inputs(args: tuple, question, context, data, X) -> Any:
    """The arguments of a call as one object: a dict, a collection of dicts, or a generator of them.

    As in transformers 4, positional arguments go before X, that before `data`, and that before question and context.
    """
    if args:
        strings = len(args) == 2 and all(isinstance(arg, str) for arg in args)
        return dict(question=args[0], context=args[1]) if strings else args[0] if len(args) == 1 else args
    if X is not None or data is not None:
        return data if X is None else X
    if question is None or context is None:
        raise ValueError("expected question= and context=, or a dict or a list of dicts with these keys")
    return [{"question": q, "context": c} for q, c in pairs_of({"question": question, "context": context})]


def pairs_of(item: Any) -> list[Pair]:
    """The pairs of question and context in one dict, whose values are strings or lists of strings."""
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} is not a dict with the keys question and context")
    for key in ("question", "context"):
        if key not in item:
            raise KeyError(f"expected a dict with the keys question and context; {key} is missing")
    questions, contexts = item["question"], item["context"]
    if isinstance(questions, list):
        contexts = [contexts] * len(questions) if isinstance(contexts, str) else contexts
    else:
        questions, contexts = [questions], [contexts]
    if not isinstance(contexts, list) or len(questions) != len(contexts):
        raise ValueError("questions and contexts do not have the same length")
    for key, texts in (("question", questions), ("context", contexts)):
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"`{key}` cannot be {text!r}, it must be a string")
            if not text:
                raise ValueError(f"`{key}` cannot be empty")
            if half := re.search("[\ud800-\udfff]", text):
                raise ValueError(f"`{key}` has an unpaired surrogate, {half.group()!r} at {half.start()}")
    return list(zip(questions, contexts, strict=True))
