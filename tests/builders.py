"""What tests are given, built in one place."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from qalib.model.formats import PICKLED
from qalib.qa.squad import Question
from qalib.utils.files import write_json


def squad_value(questions: Iterable[Question], version: str = "1.1") -> dict[str, Any]:
    """Questions as the value of a SQuAD file, "1.1" or "v2.0", each in a paragraph of its own."""
    paragraphs = []
    for q in questions:
        answers = [{"text": text, "answer_start": start} for text, start in zip(q.answers, q.starts, strict=True)]
        entry = {"id": q.id, "question": q.question, "answers": answers}
        if version == "v2.0":
            entry["is_impossible"] = not answers
        if not answers:
            entry["plausible_answers"] = [
                {"text": text, "answer_start": q.context.find(text)} for text in q.plausible_answers
            ]
        paragraphs.append({"context": q.context, "qas": [entry]})
    return {"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]}


def squad_file(path: Path, questions: Iterable[Question], version: str = "1.1") -> Path:
    """The same as a file."""
    return write_json(path, squad_value(questions, version))


def put_to_other_contexts(questions: Sequence[Question]) -> list[Question]:
    """The same questions without an answer: each put to the next context of another title that holds none of its
    answers. One whose answers stand everywhere is left out."""
    result = []
    for number, q in enumerate(questions):
        for other in (*questions[number:], *questions[:number]):
            if other.title != q.title and not any(text in other.context for text in q.answers):
                plausible = (other.context.split()[0],)
                without = replace(q, id=f"{q.id}-no", context=other.context, answers=(), starts=())
                result.append(replace(without, plausible_answers=plausible))
                break
    return result


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


def write_shards(folder: Path, state: dict[str, Tensor], name: str) -> Path:
    """Write a weight file of this name as three shards with an index; returns the index."""
    stem, ending = name.split(".")
    weight_map = {}
    for number in range(3):
        shard = f"{stem}-0000{number + 1}-of-00003.{ending}"
        part = dict(list(state.items())[number::3])
        (torch.save if name == PICKLED else safetensors.torch.save_file)(part, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    return write_json(folder / f"{name}.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
