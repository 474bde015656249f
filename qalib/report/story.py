"""The story that a report tells: its steps in order, and of each figure what there is to see in it.

A step is a notebook; figures and tables stand under the names that it keeps them by (`Results.figure`, `.table`).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """What a notebook leaves in the report: captions by figure, and tables, in the order in which they are read."""

    figures: dict[str, str] = field(default_factory=dict)
    tables: tuple[str, ...] = ()


STEPS = {
    "01_load_model": Step(tables=("example_answers",)),
    "02_sparsity_analysis": Step(
        {
            "density": "Layers down, matrices across. Hold attention, on the left, against the feed-forward network "
            "(FFN), and early layers against late ones: which gave way?",
            "patterns": "Look for empty bands. One across query, key and value is a head that died; an empty column in "
            "both FFN pictures is a group of neurons that can go.",
            "heads": "One mark a head. Crossed ones can be cut out without changing an answer; hollow ones pass for "
            "removed under the published cards' rule, and still change the output.",
            "parameters": "Embeddings are not pruned: the smaller the encoder, the larger their share of the model.",
        },
        ("matrices", "layers", "kinds", "heads", "neurons", "parameters", "file_sizes", "multiply_adds"),
    ),
    "03_squad_evaluation": Step(
        {
            "published": "Each point is a published pruned model, as its card states it; up and to the left is better. "
            "A star is this model if it was evaluated on all of SQuAD v1.1 dev; otherwise a dashed line marks its "
            "density, for its scores are on another scale.",
            "by_answerable": "SQuAD v2.0: questions with an answer beside those without, whose right answer is none.",
            "by_question_word": "Which questions are hard? The numbers below the words say how many questions a bar "
            "stands for; one over ten says little.",
            "by_answer_length": "The longer the answer, the easier it is off by a word, which costs EM all and F1 a "
            "little.",
            "by_context_length": "Is it harder to answer where there is more to read?",
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
    "04_runtime_benchmark": Step(
        {
            "speedup": "Blue runtimes leave out what was pruned, grey ones multiply every zero, purple ones are other "
            "libraries. The orange mark is what left-out multiply-adds alone would bring.",
            "densities": "The same model with blocks drawn at random, more and more of them: where a line crosses 1x, "
            "zeros begin to pay.",
            "evaluation_time": "What one waits for, texts in to answers out. The step from the first bar to the second "
            "is due to batching alone; pruning brings what comes after it.",
        },
        ("benchmark", "parts", "densities", "memory", "evaluation_time"),
    ),
    "05_model_card": Step(),
    "06_movement_pruning": Step(
        {
            "minimal_run": "A few steps of pruning, taken for this report: density follows its schedule, and heads die "
            "as the last of their blocks go.",
            "minimal_run_scores": "One line a block. The blue ones end above the rising threshold, and are kept.",
            "training": "The run that made this model: what its loss did while blocks went.",
            "training_layers": "Which kinds of matrix gave way in that run, and which layers.",
            "runs": "Runs with the same teacher and data. Compare those of equal density and length.",
        },
        ("minimal_run", "runs"),
    ),
    "07_card_audit": Step(
        {
            "audit_units": "One model, counted in two ways each time; the dashed line is what the published card says.",
            "audit_heads": "The heads of the published model: the crosses are known from its config.",
            "audit_peers": "The published card's own figures among those of its siblings.",
        },
        ("audit",),
    ),
}
CAPTIONS = {name: caption for step in STEPS.values() for name, caption in step.figures.items()}
SOURCES = {name: notebook for notebook, step in STEPS.items() for name in step.figures}
