"""SQuAD question sets, v1.1 and v2.0: loading, checking and describing them.

In v2.0 (Rajpurkar et al. 2018, arXiv 1806.03822) a question may have no answer: its `answers` are empty, it is marked
`is_impossible`, and may have `plausible_answers`, which are wrong.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qalib.utils.errors import InputError, one_line
from qalib.utils.files import read_json, sha256
from qalib.utils.paths import SAMPLE

V1, V2 = "1.1", "2.0"
ON_HUB = {"squad": ("rajpurkar/squad", V1), "squad_v2": ("rajpurkar/squad_v2", V2)}
SIZES = {  # questions; validation is what papers call dev
    V1: {"train": 87_599, "validation": 10_570},
    V2: {"train": 130_319, "validation": 11_873},
}


@dataclass(frozen=True)
class Question:
    """One question about one paragraph; `answers` are the reference texts, `starts` their character offsets.

    Both are empty if the question has no answer; `plausible_answers` then hold texts that look like one.
    """

    id: str
    title: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    plausible_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuestionSet:
    """Questions in file order, with the name that was asked for, a description and a hash of the data.

    `version` is SQuAD's, "1.1" or "2.0", and decides how answers are found and scored.
    """

    questions: tuple[Question, ...] = field(repr=False)
    name: str
    description: str
    sha256: str
    version: str = V1

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def scope(self) -> str:
        """The questions that EM and F1 are over, in words."""
        return describe_scope(len(self), self.description, self.version)

    def is_all_of(self, split: str) -> bool:
        """Are these as many as that split of their SQuAD has? Only then are scores comparable to published ones."""
        return len(self) == SIZES[self.version][split]

    def first(self, count: int | None) -> "QuestionSet":
        """The first `count` questions (all if None); the description says so."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise InputError(f"--questions {count}: at least 1 question is needed")
        description = f"{self.description}, the first {count:,} of {len(self):,} questions"
        return replace(self, questions=self.questions[:count], description=description)


def describe_scope(count: int, description: str, version: str = V1) -> str:
    """The questions that EM and F1 are over, in words: `count` from the data set described.

    >>> describe_scope(235, "the bundled sample questions")
    '235 questions (the bundled sample questions)'
    >>> describe_scope(10570, "dev-v1.1.json")
    'all 10,570 questions of SQuAD v1.1 dev'
    """
    whole = count == SIZES[version]["validation"]
    return f"all {count:,} questions of SQuAD v{version} dev" if whole else f"{count:,} questions ({description})"


def load(source: str, split: str = "validation") -> QuestionSet:
    """The question set `sample` (bundled), `squad` or `squad_v2` (hub or its cache, through `datasets`), or a file in
    SQuAD v1.1 or v2.0 format or in rows (see `read`).

    Raises InputError if it cannot be loaded; never falls back to another set.
    """
    if source == "sample":
        return QuestionSet(read(SAMPLE), source, "the bundled sample questions", sha256(SAMPLE))
    if source in ON_HUB:
        return _from_hub(source, split)
    path = Path(source)
    if not path.exists():
        kinds = f"'sample', {', '.join(map(repr, ON_HUB))} or a SQuAD v1.1 or v2.0 file, JSON or JSON Lines"
        raise InputError(f"{source}: no such file (a question set is {kinds})")
    questions, version = _read(path)
    return QuestionSet(questions, str(source), path.name, sha256(path), version)


def read(path: Path | str) -> tuple[Question, ...]:
    """The questions of a file in the official JSON format of SQuAD v1.1 or v2.0, or in rows as `datasets` writes them:
    JSON Lines, or an array, of objects with id, context, question and answers.

    Raises InputError naming the file and where in it the fault is.
    """
    return _read(path)[0]


def _read(path: Path | str) -> tuple[tuple[Question, ...], str]:
    """The questions and the SQuAD version: as the file states it, else by whether every question has an answer."""
    value = read_json(path, lines=True)
    stated = str(value.get("version") if isinstance(value, dict) else None).removeprefix("v")
    questions: dict[str, Question] = {}
    for entry, title, context, place in _entries(value, path):
        question = _question(entry, title, context, place, stated)
        if question.id in questions:
            raise InputError(f"{place}: the id {_short(question.id)} appears twice")
        questions[question.id] = question
    if not questions:
        raise InputError(f"{path}: no questions in it")
    if stated not in SIZES:
        stated = V1 if all(question.answers for question in questions.values()) else V2
    return tuple(questions.values()), stated


def _entries(value: Any, path: Path | str) -> Iterator[tuple[Any, str, str, str]]:
    """Each question's object with its title, its context and its place in the file."""
    if isinstance(value, dict) and "data" not in value and "question" in value:
        value = [value]  # JSON Lines with a single line
    if isinstance(value, list):
        for number, row in enumerate(value, 1):
            place = f"{path}: row {number}"
            context = _field(row, "context", str, place)
            yield row, str(row.get("title", "")), context, place
        return
    for a, article in enumerate(_field(value, "data", list, str(path))):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"{path}: data[{a}]")):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            context = _field(paragraph, "context", str, place)
            for q, entry in enumerate(_field(paragraph, "qas", list, place)):
                yield entry, str(article.get("title", "")), context, f"{place}.qas[{q}]"


def _question(entry: Any, title: str, context: str, place: str, version: str) -> Question:
    text = _field(entry, "question", str, place)
    identifier = _identifier(entry, place)
    answers, starts = _answers(entry, place)
    impossible = _is_impossible(entry, len(answers), f"{place}: question {_short(identifier)}", version)
    if not text.strip() or not context.strip():
        raise InputError(f"{place}: question {_short(identifier)} has an empty question or context")
    for k, (answer, start) in enumerate(zip(answers, starts, strict=True)):
        if not answer.strip():
            raise InputError(f"{place}.answers[{k}]: question {_short(identifier)} has an empty answer")
        if start < 0 or not context.startswith(answer, start):
            raise InputError(
                f"{place}.answers[{k}]: question {_short(identifier)}: {_short(answer)} is not at character "
                f"{start} of its context{_found(context, answer)}"
            )
    plausible = _plausible_answers(entry, place) if impossible else ()
    return Question(identifier, title, text, context, tuple(answers), tuple(starts), plausible)


def _identifier(entry: dict, place: str) -> str:
    """A question's id; annotation tools number their questions."""
    number = entry.get("id")
    return str(number) if type(number) is int else _field(entry, "id", str, place)


def _answers(entry: dict, place: str) -> tuple[list[str], list[int]]:
    """Texts and starts of the answers: a list of objects, or as `datasets` has them, an object of two lists."""
    if isinstance(answers := entry.get("answers"), dict):
        place = f"{place}.answers"
        texts, starts = _field(answers, "text", list, place), _field(answers, "answer_start", list, place)
        if len(texts) != len(starts):
            raise InputError(f"{place}: {len(texts)} texts, but {len(starts)} numbers in 'answer_start'")
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    else:
        answers = _field(entry, "answers", list, place)
    places = [f"{place}.answers[{k}]" for k in range(len(answers))]
    return (
        [_field(answer, "text", str, at) for answer, at in zip(answers, places, strict=True)],
        [_field(answer, "answer_start", int, at) for answer, at in zip(answers, places, strict=True)],
    )


def _is_impossible(entry: dict, answers: int, name: str, version: str) -> bool:
    """Whether a question has no answer: if it has none listed, as in the official v2.0 script.

    Raises InputError if the version, or `is_impossible` where it is given, disagrees with the number of `answers`.
    """
    marked = entry.get("is_impossible")
    if version == V1 and (marked or not answers):
        raise InputError(f"{name} has no answer (SQuAD 2.0?), but the file says it is SQuAD v1.1")
    if not isinstance(marked, bool | None):
        raise InputError(f"{name}: 'is_impossible' is {type(marked).__name__}, expected bool")
    if marked and answers:
        raise InputError(f"{name}: 'is_impossible' is true, but there are answers ({answers})")
    if marked is False and not answers:
        raise InputError(f"{name} has no answer, but 'is_impossible' is false")
    return not answers


def _plausible_answers(entry: dict, place: str) -> tuple[str, ...]:
    found = _field({"plausible_answers": []} | entry, "plausible_answers", list, place)
    return tuple(_field(answer, "text", str, f"{place}.plausible_answers[{k}]") for k, answer in enumerate(found))


def _found(context: str, answer: str) -> str:
    at = context.find(answer)
    return ", nor anywhere in it" if at < 0 else f", but at {at}"


def _short(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


def _field(value: Any, key: str, kind: type, place: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected an object with {key!r}, found {type(value).__name__}")
    if key not in value:
        raise InputError(f"{place}: {key!r} is missing (SQuAD format expected)")
    if not isinstance(value[key], kind) or isinstance(value[key], bool):
        raise InputError(f"{place}: {key!r} is {type(value[key]).__name__}, expected {kind.__name__}")
    return value[key]


def _from_hub(source: str, split: str) -> QuestionSet:
    import datasets

    name, version = ON_HUB[source]
    try:
        rows: Any = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises many kinds; each means that the data cannot be loaded
        raise InputError(
            f"{source}: {name} ({split}) is not in the cache and cannot be downloaded "
            f"({one_line(error)}); name a SQuAD v{version} file with --data instead"
        ) from error
    questions = tuple(
        Question(r["id"], r["title"], r["question"], r["context"],
                 tuple(r["answers"]["text"]), tuple(r["answers"]["answer_start"]))
        for r in rows
    )  # fmt: skip
    digest = hashlib.sha256(json.dumps([[q.id, q.context, q.question, q.answers] for q in questions]).encode())
    return QuestionSet(questions, source, f"SQuAD v{version} {split} ({name})", digest.hexdigest(), version)
