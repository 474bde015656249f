"""What tests are given, built in one place."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qalib.qa.squad import Question
from qalib.utils.files import write_json


def squad_value(questions: Iterable[Question]) -> dict[str, Any]:
    """Questions as the value of a SQuAD v1.1 file, each in a paragraph of its own."""
    paragraphs = []
    for q in questions:
        answers = [{"text": text, "answer_start": start} for text, start in zip(q.answers, q.starts, strict=True)]
        paragraphs.append({"context": q.context, "qas": [{"id": q.id, "question": q.question, "answers": answers}]})
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def squad_file(path: Path, questions: Iterable[Question]) -> Path:
    """The same as a file."""
    return write_json(path, squad_value(questions))


def towns(count: int = 48) -> list[Question]:
    """Short questions that a tiny model can learn: two for each context."""
    names = ["Adler", "Berlin", "Corvin", "Dover", "Elgin", "Farrow", "Galway", "Hastings"]
    questions = []
    for number in range(count):
        town, year = names[number // 2 % len(names)], str(1700 + number // 2)
        context = f"In {year} the town of {town} built lighthouse {number // 2}."
        asked, answer = ("Which town?", town) if number % 2 else ("In which year?", year)
        questions.append(Question(f"{number}", "towns", asked, context, (answer,), (context.index(answer),)))
    return questions
