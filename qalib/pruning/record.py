"""What a model's model_meta.json says about the pruning run that made it."""

import platform
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from qalib.model.checkpoint import Checkpoint
from qalib.pruning.config import PruningConfig
from qalib.pruning.dataset import SquadDataset
from qalib.qa.squad import QuestionSet

INHERITED = ("license", "base_model", "notice")  # by a model from the one it was made from
MODULES = (torch, transformers, accelerate)


def origin(
    config: PruningConfig, teacher: Checkpoint | None, student: Checkpoint, questions: QuestionSet, data: SquadDataset
) -> dict[str, Any]:
    """What any run says of its settings, models, data and libraries; the student's own record is in `made_by`."""
    made_by = {"made_by": student.meta} if student.meta else {}
    taught_by = {"teacher": {"name": teacher.name, "sha256": teacher.sha256}} if teacher else {}
    inherited = {name: student.meta[name] for name in INHERITED if name in student.meta}
    return (
        inherited
        | taught_by
        | {
            "method": config.method,
            "arguments": {name: _portable(name, value) for name, value in config.to_dict().items()},
            "student": {"name": student.name, "sha256": student.sha256} | made_by,
            "data": {
                "name": questions.description,
                "version": questions.version,
                "sha256": questions.sha256,
                "questions": len(questions),
                "windows": len(data),
            },
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "versions": {"python": platform.python_version()} | {m.__name__: m.__version__ for m in MODULES},
        }
    )


def _portable(name: str, value: Any) -> Any:
    """A setting without the folders of a path, which would tell of the machine."""
    is_path = isinstance(value, str) and (name in ("out", "work", "teacher_cache") or Path(value).exists())
    return Path(value).name if is_path else value
