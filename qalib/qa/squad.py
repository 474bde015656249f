"""SQuAD v1.1 question sets: read, checked, and named by what they are."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalib.utils.errors import InputError, one_line
from qalib.utils.files import read_json, sha256
from qalib.utils.paths import SAMPLE

HUB_NAME = "rajpurkar/squad"
SIZES = {"train": 87_599, "validation": 10_570}  # questions of SQuAD v1.1; validation is what papers call dev


@dataclass(frozen=True)
class Question:
    """One question about one paragraph; `answers` are the reference texts, `starts` their character offsets."""

    id: str
    title: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class QuestionSet:
    """Questions in file order, with the name they were asked for by, a description and a hash of the data."""

    questions: tuple[Question, ...]
    name: str
    description: str
    sha256: str

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def scope(self) -> str:
        """What EM and F1 over these questions are of."""
        return scope(len(self), self.description)

    def is_all_of(self, split: str) -> bool:
        """As many questions as that split of SQuAD v1.1 has? Only then can scores stand beside published ones."""
        return len(self) == SIZES[split]

    def first(self, count: int | None) -> "QuestionSet":
        """The first `count` questions (all for None); the description says so."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise InputError(f"--questions {count}: at least 1 question is needed")
        description = f"{self.description}, the first {count:,} of {len(self):,} questions"
        return QuestionSet(self.questions[:count], self.name, description, self.sha256)


def scope(count: int, description: str) -> str:
    """What EM and F1 over `count` questions of a data set are of.

    >>> scope(235, "the bundled sample questions")
    '235 questions (the bundled sample questions)'
    >>> scope(10570, "dev-v1.1.json")
    'all 10,570 questions of SQuAD v1.1 dev'
    """
    whole = count == SIZES["validation"]
    return f"all {count:,} questions of SQuAD v1.1 dev" if whole else f"{count:,} questions ({description})"


def load(source: str, split: str = "validation") -> QuestionSet:
    """The question set `sample` (bundled), `squad` (hub or its cache, through `datasets`), or a SQuAD v1.1 file.

    Raises InputError if it cannot be had as asked; never another set in its place.
    """
    if source == "sample":
        return QuestionSet(read(SAMPLE), source, "the bundled sample questions", sha256(SAMPLE))
    if source == "squad":
        return _from_hub(split)
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source}: no such file (a question set is 'sample', 'squad' or a SQuAD v1.1 JSON file)")
    return QuestionSet(read(path), str(source), path.name, sha256(path))


def read(path: Path | str) -> tuple[Question, ...]:
    """The questions of a file in the official SQuAD v1.1 JSON format.

    Raises InputError naming the file and the place of what is wrong.
    """
    questions = []
    seen = set()
    data = _field(read_json(path), "data", list, str(path))
    for a, article in enumerate(data):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"{path}: data[{a}]")):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            context = _field(paragraph, "context", str, place)
            for q, entry in enumerate(_field(paragraph, "qas", list, place)):
                question = _question(entry, article, context, f"{place}.qas[{q}]")
                if question.id in seen:
                    raise InputError(f"{place}.qas[{q}]: the id {_short(question.id)} stands twice")
                seen.add(question.id)
                questions.append(question)
    if not questions:
        raise InputError(f"{path}: no questions in it")
    return tuple(questions)


def _question(entry: Any, article: dict, context: str, place: str) -> Question:
    text = _field(entry, "question", str, place)
    identifier = _field(entry, "id", str, place)
    if entry.get("is_impossible") or not _field(entry, "answers", list, place):
        raise InputError(
            f"{place}: question {_short(identifier)} has no answer (SQuAD 2.0?); only SQuAD v1.1 is supported"
        )
    if not text.strip() or not context.strip():
        raise InputError(f"{place}: question {_short(identifier)} has an empty question or context")
    answers = [_field(answer, "text", str, f"{place}.answers[{k}]") for k, answer in enumerate(entry["answers"])]
    starts = [_field(answer, "answer_start", int, f"{place}.answers[{k}]") for k, answer in enumerate(entry["answers"])]
    for k, (answer, start) in enumerate(zip(answers, starts, strict=True)):
        if not answer.strip():
            raise InputError(f"{place}.answers[{k}]: question {_short(identifier)} has an empty answer")
        if start < 0 or not context.startswith(answer, start):
            raise InputError(
                f"{place}.answers[{k}]: question {_short(identifier)}: {_short(answer)} does not stand at character "
                f"{start} of its context{_found(context, answer)}"
            )
    return Question(identifier, str(article.get("title", "")), text, context, tuple(answers), tuple(starts))


def _found(context: str, answer: str) -> str:
    at = context.find(answer)
    return ", nor anywhere in it" if at < 0 else f", but at {at}"


def _short(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")


def _field(value: Any, key: str, kind: type, place: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected an object with {key!r}, found {type(value).__name__}")
    if key not in value:
        raise InputError(f"{place}: {key!r} is missing (SQuAD v1.1 format expected)")
    if not isinstance(value[key], kind) or isinstance(value[key], bool):
        raise InputError(f"{place}: {key!r} is {type(value[key]).__name__}, expected {kind.__name__}")
    return value[key]


def _from_hub(split: str) -> QuestionSet:
    import datasets

    try:
        rows = datasets.load_dataset(HUB_NAME, split=split)
    except Exception as error:  # the library raises many kinds; each means that the data cannot be had
        raise InputError(
            f"squad: {HUB_NAME} ({split}) is neither in the cache nor in reach "
            f"({one_line(error)}); name a SQuAD v1.1 file with --data instead"
        ) from error
    questions = tuple(
        Question(r["id"], r["title"], r["question"], r["context"],
                 tuple(r["answers"]["text"]), tuple(r["answers"]["answer_start"]))
        for r in rows
    )  # fmt: skip
    digest = hashlib.sha256(json.dumps([[q.id, q.context, q.question, q.answers] for q in questions]).encode())
    return QuestionSet(questions, "squad", f"SQuAD v1.1 {split} ({HUB_NAME})", digest.hexdigest())
