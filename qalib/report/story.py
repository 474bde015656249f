"""The story that a report tells: its steps in order, and a caption for each figure saying what to look for.

A step is a notebook; figures and tables go by the names it gives them (`Results.figure`, `.table`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from qalib.utils.quantity import Number


@dataclass(frozen=True)
class Section:
    """What a notebook adds to the report: captions by figure, and tables, in reading order."""

    figures: dict[str, str] = field(default_factory=dict)
    tables: tuple[str, ...] = ()


SECTIONS = {
    "01_load_model": Section(tables=("example_answers",)),
    "02_sparsity_analysis": Section(
        {
            "density": "Layers down, matrices across. Compare attention, on the left, with the feed-forward network "
            "(FFN), and early layers with late ones: which were pruned most?",
            "patterns": "Look for empty bands. One across query, key and value is a head that died; an empty column in "
            "both FFN pictures is a group of neurons that can go.",
            "heads": "One mark per head. Crossed ones can be cut out without changing an answer; hollow ones count as "
            "removed under the published cards' rule, but still change the output.",
            "parameters": "Embeddings are not pruned: the smaller the encoder, the larger their share of the model.",
        },
        ("matrices", "layers", "kinds", "heads", "neurons", "parameters", "file_sizes", "multiply_adds"),
    ),
    "03_squad_evaluation": Section(
        {
            "published": "Each point is a published pruned model, as its card states it; up and to the left is better. "
            "The star is this model, if it was evaluated on all of SQuAD v1.1 dev; otherwise a dashed line marks its "
            "density, since its scores are on another scale.",
            "by_answerable": "SQuAD v2.0: questions with an answer and those without one.",
            "by_question_word": "Which questions are hard? The numbers below the words say how many questions a bar "
            "stands for; a bar over ten questions says little.",
            "by_answer_length": "The longer the answer, the more easily it is off by a word, which costs all of EM but "
            "little of F1.",
            "by_context_length": "Are questions harder when there is more to read?",
        },
        (
            "everyday",
            "pronoun_shifts",
            "worst_answers",
            "by_answerable",
            "by_question_word",
            "by_answer_length",
            "by_context_length",
        ),
    ),
    "04_runtime_benchmark": Section(
        {
            "speedup": "Blue runtimes leave out what was pruned, grey ones multiply every zero, purple ones are other "
            "libraries. The orange mark is the speedup if only multiply-adds counted.",
            "densities": "The same model with more and more blocks, drawn at random. At density 1 nothing is skipped: "
            "a speedup there is due to the kernel, any further gain at lower densities to zeros.",
            "evaluation_time": "The time you wait, from texts to answers. The step from the usual way to the fastest "
            "dense one is batching, which is not our doing; from there to the fastest blue bar it is pruning and our "
            "runtime.",
        },
        ("benchmark", "over_bert_base", "parts", "densities", "memory", "evaluation_time"),
    ),
    "05_model_card": Section(),
    "06_movement_pruning": Section(
        {
            "minimal_run": "A few steps of pruning, run for this report: density follows its schedule, and heads die "
            "as they lose their last blocks.",
            "minimal_run_scores": "One line per block. The blue ones end above the rising threshold and are kept.",
            "training": "The run that made this model: its loss as blocks were removed.",
            "training_layers": "Which kinds of matrix, and which layers, lost most in that run.",
            "runs": "Runs with the same teacher and data. Compare those of equal density and length.",
            "frontier": "Higher is better; in the right panel, so is further right. The line joins this model with the "
            "best dense one of its size: only that step is due to pruning and its runtime, the rest to a smaller "
            "architecture. Filled marks were run by this project, hollow ones are as published, each on its own "
            "hardware and over its own BERT-base, so compare speeds with care.",
        },
        ("minimal_run", "runs", "frontier"),
    ),
    "07_card_audit": Section(
        {
            "audit_units": "The same model counted in two ways; the dashed line is what the published card says.",
            "audit_heads": "The heads of the published model: the crosses are known from its config.",
            "audit_peers": "The published card's own figures among those of its siblings.",
        },
        ("audit",),
    ),
}
CAPTIONS = {name: caption for step in SECTIONS.values() for name, caption in step.figures.items()}
SOURCES = {name: notebook for notebook, step in SECTIONS.items() for name in step.figures}
TOPICS = {
    "01_load_model": "The model and its training",
    "02_sparsity_analysis": "What is left of the model",
    "03_squad_evaluation": "How well it answers",
    "04_runtime_benchmark": "How fast it is",
    "07_card_audit": "A published card's claims",
}
MACHINE = "The machine and its software"


def by_topic(numbers: Mapping[str, Number]) -> dict[str, list[Number]]:
    """A report's numbers by topic, in the order of the notebooks that they come from."""
    topics: dict[str, list[Number]] = {}
    for number in sorted(numbers.values(), key=lambda number: number.source):
        of_machine = number.name.startswith(("machine_", "version_"))
        topics.setdefault(MACHINE if of_machine else TOPICS.get(number.source, number.source), []).append(number)
    return topics
