"""Summaries for people: what a command found or made, in groups of lines for `console.print_groups`."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qalib.utils.quantity import readable, words

if TYPE_CHECKING:
    import pandas as pd

    from qalib.model.checkpoint import Checkpoint
    from qalib.qa.evaluation import Evaluation
    from qalib.qa.metric import Score
    from qalib.sparsity import Summary

Groups = Mapping[str, Mapping[str, str]]


def of_sparsity(loaded: "Checkpoint", summary: "Summary", tables: dict[str, "pd.DataFrame"]) -> Groups:
    """What is left of a model."""
    removed = tables["heads"].groupby("layer").called_removed.sum()
    work = tables["multiply_adds"].set_index("part")
    work.loc["in all"] = work.sum()
    block = "x".join(map(str, loaded.block))
    misfits = {f"not in blocks of {block}": summary.block_misfits} if summary.block_misfits else {}
    return {
        "": _identity(loaded) | {"pruned in": summary.granularity} | misfits,
        "weights and parameters": {
            "encoder weights left": readable(summary.linear_density_percent, "%"),
            "blocks kept": f"{_of(summary.kept_blocks, summary.blocks)} of {block}",
            "parameters left": _of(summary.kept_parameters, summary.parameters),
            "with a pooler": f"{readable(summary.overall_density_with_pooler_percent, '%')} left",
            "embeddings": f"{readable(summary.embeddings_percent, '%')} of the parameters left",
        },
        "heads and neurons": {
            "heads left": _of(summary.heads_left, summary.heads),
            "heads called removed": f"{summary.heads_called_removed} ({', '.join(map(str, removed))} by layer)",
            "heads that can go": f"{summary.heads_removable} without changing the output",
            "neurons that can go": _of(summary.neurons_removable, summary.neurons),
        },
        "size": {form: readable(size, "bytes") for form, size in tables["file_sizes"][["form", "bytes"]].to_numpy()},
        "multiply-adds of a window of 384 tokens": {
            str(part): ", ".join(f"{readable(count, 'multiply-adds')} {kind}" for kind, count in counts.items())
            for part, counts in work.iterrows()
        },
    }


def of_evaluation(about: dict[str, Any], evaluation: "Evaluation") -> Groups:
    """What was run on what, the scores and the time. `about` is from `evaluation.load_and_evaluate`."""
    answers = evaluation.answers
    ran = {"runtime", "dtype", "device", "dtype_remark"}
    return {
        "": {words(name): str(value) for name, value in about.items() if name not in ran}
        | {"runtime": f"{about['runtime']} in {about['dtype']} on {about['device']}", "type": about["dtype_remark"]},
        "score": of_score(evaluation.score),
        "time": {
            "texts to answers": readable(answers.seconds, "s"),
            "in the model": readable(answers.model_seconds, "s"),
            "windows": f"{answers.windows:,} of {answers.tokens:,} tokens ({answers.padded_tokens:,} with padding)",
            "processes": readable(answers.processes, "count"),
        },
    }


def of_score(score: "Score") -> dict[str, str]:
    """A score of the official metric, each field with its unit."""
    names = {"total": "questions", "missing": "without a prediction", "unknown": "predictions for other questions"}
    return {
        names.get(f.name, words(f.name)): readable(getattr(score, f.name), f.metadata["unit"]) for f in fields(score)
    }


def of_pruned(folder: Path, data: str) -> tuple[Groups, str]:
    """What a finished run wrote, and the command to try next; `data` are the run's questions."""
    from qalib import sparsity
    from qalib.model import checkpoint

    pruned = checkpoint.load(folder)
    counted, heads = sparsity.per_matrix(pruned), sparsity.heads(pruned)
    density = 100 * counted.kept_weights.sum() / counted.weights.sum()
    lines = {
        "encoder weights left": readable(float(density), "%"),
        "blocks kept": f"{_of(counted.kept_blocks.sum(), counted.blocks.sum())} of {'x'.join(map(str, pruned.block))}",
        "heads left": _of((~heads.called_removed).sum(), len(heads)),
    }
    if speedup := pruned.meta.get("speedup"):
        lines["speedup over dense, on this CPU"] = f"{speedup['value']:.2f}x"
    scores = pruned.meta.get("scores", {})
    for name in ("exact_match", "f1") if scores else ():
        teacher = f" (teacher: {readable(scores['teacher'][name], '%')})" if "teacher" in scores else ""
        lines[words(name)] = readable(scores["model"][name], "%") + teacher
    lines |= {"scored on": scores["data"]["name"]} if scores else {}
    lines["time"] = _duration(pruned.meta["training_seconds"])
    model, questions = shlex.quote(str(folder)), shlex.quote(data)
    if not scores:
        return {str(folder): lines}, f"qalib evaluate --model {model} --data {questions}"
    if density < 100:
        return {str(folder): lines}, f"qalib benchmark forward --model {model}"
    prune = f"qalib prune --method obs --density 0.5 --teacher {model} --data {questions}"
    return {str(folder): lines}, f"{prune} --out {shlex.quote(f'{folder}-half')}"


def _identity(loaded: "Checkpoint") -> dict[str, str]:
    revision = {"revision": loaded.revision} if loaded.revision else {}
    return {"model": loaded.name, "format": loaded.format} | revision


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / total:.2f} %)"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
