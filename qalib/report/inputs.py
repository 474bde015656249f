"""The inputs of the model card: every number that its template shows, with unit and definition.

Most are fields of what the package measures; those of this module are single numbers that a notebook keeps by name
(`Results.number`). None means that there is none: a note in results.json says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from qalib.benchmark.summary import EvaluationHeadline, Headline
from qalib.model.description import Description, TrainingRecord
from qalib.qa import metric, metric_v2
from qalib.qa.answering import Workload
from qalib.qa.evaluation import NoAnswers
from qalib.qa.limitations import Limitations
from qalib.runtimes import dtypes
from qalib.sparsity import Summary
from qalib.utils.errors import InputError
from qalib.utils.quantity import Number, measure


@dataclass(frozen=True)
class CardInputs(
    Description, TrainingRecord, Summary, metric.Score, Workload, Limitations, Headline, EvaluationHeadline
):
    """All inputs of the card of a model evaluated on SQuAD v1.1."""

    machine_cpu: str = measure("text", "CPU, read from the machine")
    machine_cores: str = measure("text", "cores, read from the machine")
    machine_threads_used: str = measure("text", "threads used, read from the machine")
    machine_memory: str = measure("text", "memory, read from the machine")
    machine_gpu: str = measure("text", "GPU, read from the machine")
    machine_python: str = measure("text", "Python, read from the machine")
    version_torch: str = measure("text", "installed version of torch")
    version_transformers: str = measure("text", "installed version of transformers")
    widget_answer: str | None = measure("text", "the model's answer to it")
    widget_score: float | None = measure("probability", "probability of that answer, start times end")
    data_description: str = measure("text", "question set that was evaluated")
    questions: int = measure("count", "questions evaluated")
    evaluated_in: str = measure("text", "type of the evaluation: the faster of two, by a short timing")
    bf16_speed: float | None = measure("x", dtypes.DEFINITION)
    gpu_speedup: float | None = measure("x", "baseline / compact, median seconds of one forward pass on the GPU")

    @classmethod
    def read(cls, numbers: Mapping[str, Number]) -> "CardInputs":
        """Read the inputs from a report's numbers. Raises InputError naming the first that is missing."""
        kind = CardInputsV2 if "NoAns_total" in numbers else CardInputs
        try:
            return kind(**{field.name: numbers[field.name].value for field in fields(kind)})
        except KeyError as error:
            raise InputError(f"the card needs a number that is not in results.json: {error}") from None


@dataclass(frozen=True)
class CardInputsV2(CardInputs, metric_v2.Score, NoAnswers):
    """All inputs of the card of a model evaluated on SQuAD v2.0."""
