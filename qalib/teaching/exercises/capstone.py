"""Capstone: a student's own pruning run, held against that of `qalib prune`, and a leaderboard for the class.

First `check_mask`: on a tiny model with random weights, made here, a student's function has to keep the very blocks
that the package keeps. Then `enter`: on the bundled model any way of pruning is welcome, and what counts is F1 on
questions with contexts that the function was not given.
"""

import copy
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, cast

import filelock
import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

from qalib import sparsity
from qalib.model import checkpoint
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import magnitude, run
from qalib.pruning.config import PruningConfig
from qalib.qa import evaluation, squad
from qalib.qa.squad import QuestionSet
from qalib.report.plots.style import BLUE, GREY, INK
from qalib.teaching.exercises import Verdict
from qalib.teaching.exercises.algorithm_checks import unwritten
from qalib.teaching.lessons.boards import LINES, Board, board, large
from qalib.teaching.lessons.distillation import split_by_context
from qalib.utils import machine
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import read_text

DENSITY, SECONDS = 0.2, 300  # at most
LEARNT = 155  # questions that a student's function is given
RECIPE = {"data": "sample", "questions": 32, "block": (8, 8), "density": 0.3, "epochs": 3, "batch": 8,
          "weight_lr": 1e-3, "precision": "fp32"}  # fmt: skip


def tiny_model(folder: Path | str, seed: int = 0) -> Path:
    """Write a BERT with random weights and the bundled model's tokenizer: 2 layers, 4 heads of 16, 128 neurons."""
    torch.manual_seed(seed)
    bundled = checkpoint.load("bundled")
    config = BertConfig(
        vocab_size=len(bundled.tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=384, initializer_range=0.2,
    )  # fmt: skip
    BertForQuestionAnswering(config).save_pretrained(folder)
    for path in bundled.folder.glob("tokenizer*"):
        shutil.copy(path, folder)
    return Path(folder)


def check_mask(prune: Callable[[Checkpoint, QuestionSet, PruningConfig], nn.Module], seed: int = 0) -> Verdict:
    """Does a student's function keep the blocks of the tiny model that `qalib prune` keeps with the same settings?

    It is called with checkpoint, questions and settings, and returns the pruned model, with zeros where the mask is.
    """
    if prune is ... or unwritten(prune):
        return Verdict(False, "Not answered yet.")
    with TemporaryDirectory() as work:
        tiny = tiny_model(Path(work) / "tiny", seed)
        places = {"out": Path(work) / "out", "teacher_cache": Path(work) / "teachers"}
        config = PruningConfig(teacher=str(tiny), seed=seed, **places, **RECIPE)
        expected = sparsity.block_masks(checkpoint.load(run.prune(config, progress=False)), config.block)
        questions = squad.load(config.data).first(config.questions)
        try:
            made = prune(given := checkpoint.load(tiny), questions, config)
            plain = _plain(checkpoint.load(tiny), made)
        except Exception as error:  # whatever a student's run raises
            return Verdict(False, f"Not yet: {one_line(error)}")
        found = sparsity.block_masks(replace(given, model=plain.model), config.block)
    return _compared(found, expected)


def _compared(found: dict, expected: dict) -> Verdict:
    mine, theirs = (torch.cat([mask.flatten() for mask in masks.values()]) for masks in (found, expected))
    kept, asked, both = int(mine.sum()), int(theirs.sum()), int((mine & theirs).sum())
    if kept == asked == both:
        return Verdict(True, f"Right: it keeps the {asked:,} of {len(theirs):,} blocks that `qalib prune` keeps.")
    chance = kept * asked / len(theirs)
    said = f"{both:,} of the {asked:,} blocks that `qalib prune` keeps are kept (of {kept:,}; by chance {chance:.0f})"
    return Verdict(False, f"Not yet: {said}")


def enter(
    name: str,
    prune: Callable[[Checkpoint, QuestionSet], nn.Module],
    entries: Path | str = "leaderboard.jsonl",
    model: str = "bundled",
    data: str = "sample",
    learnt: int = LEARNT,
    density: float = DENSITY,
    seconds: float = SECONDS,
) -> Verdict:
    """Prune a model with a student's function, score what comes of it, and write a line to the class's leaderboard.

    The function is called with the checkpoint and `learnt` questions, and returns the pruned model. F1 is over the
    questions of `data` with other contexts. What is too dense or took too long is told and not entered.
    """
    if prune is ... or unwritten(prune):
        return Verdict(False, "Not answered yet.")
    loaded = checkpoint.load(model)
    questions, unseen = split_by_context(squad.load(data), learnt)
    started = time.monotonic()
    try:
        made = prune(copy.deepcopy(loaded), questions)
        took = time.monotonic() - started
        pruned = _plain(loaded, made)
    except Exception as error:  # whatever a student's run raises
        return Verdict(False, f"Not yet: {one_line(error)}")
    reached = sparsity.density(pruned)
    if reached > density:
        return Verdict(False, f"Not yet: the density is {reached:.4f}, at most {density:g} is allowed")
    if took > seconds:
        return Verdict(False, f"Not yet: it took {took:.0f} s, {seconds:g} are allowed")
    score = evaluation.evaluate(pruned.model, loaded.tokenizer, unseen, progress=False).score
    exact_match, f1 = cast(float, score.exact_match), cast(float, score.f1)
    entry = {
        "name": str(name), "f1": round(f1, 2), "exact_match": round(exact_match, 2),
        "density": round(reached, 5), "seconds": round(took, 1), "questions": len(unseen), "model": loaded.sha256,
        "data": unseen.sha256, "processor": machine.specs()["CPU"],
        "entered": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    append(entries, entry)
    place = int((leaderboard(entries).f1 > entry["f1"]).sum()) + 1
    said = f"F1 {score.f1:.1f} % on {len(unseen)} questions at a density of {reached:.3f} after {took:.0f} s"
    return Verdict(True, f"Right: entered with {said}; place {place}.")


def magnitude_baseline(loaded, questions):
    """The pruned model, at a density of at most 0.20, in at most five minutes; `questions` are there to learn from."""
    return magnitude.prune(loaded, DENSITY / sparsity.density(loaded, (1, 1)), loaded.block).model


def new_board() -> Path:
    """A leaderboard for oneself, in a folder of its own that the system clears."""
    return Path(mkdtemp(prefix="leaderboard-")) / "leaderboard.jsonl"


def _plain(loaded: Checkpoint, made: Any) -> Checkpoint:
    """The checkpoint with the weights of a model that was made of it, and nothing else of that model."""
    if not isinstance(made, nn.Module):
        raise TypeError(f"must return a model, not {type(made).__name__}")
    plain = loaded.copy()
    plain.model.load_state_dict(made.state_dict())  # raises what is too much, missing or of another size
    plain.model.eval()
    return plain


def append(path: Path | str, entry: dict[str, Any]) -> None:
    """Add a line to a file of JSON lines in one write, as other processes may at once; its earlier lines stay."""
    line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
    with filelock.FileLock(f"{path}.lock"), open(path, "ab", buffering=0) as file:
        file.write(line.encode())
        os.fsync(file.fileno())


def leaderboard(path: Path | str = "leaderboard.jsonl") -> pd.DataFrame:
    """The entries, best F1 first; none where nobody has entered yet. Raises InputError for a line that is none."""
    entries = []
    if not Path(path).exists():
        return pd.DataFrame(columns=["name", "f1"])
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            entries.append({"name": None, "f1": None} | json.loads(line))
        except (json.JSONDecodeError, TypeError):
            raise InputError(f"{path}: line {number} is not an entry: {line[:60]!r}") from None
    return pd.DataFrame(entries).sort_values("f1", ascending=False, kind="stable", ignore_index=True)


@large
def plot_schedule(density: float) -> Board:
    """What a run to a density is steered by while it goes on: density, threshold, learning rates."""
    schedule = PruningConfig(teacher="", data="", out=Path(), density=density).schedule()
    progress = np.linspace(0, 1, 201)
    figure, panels = board(4.2, 1, 2)
    lines = (("density", schedule.density_at), ("10 x threshold", lambda x: 10 * schedule.threshold_at(x)))
    rates = (("weights", schedule.weight_lr_factor), ("scores", schedule.score_lr_factor))
    for axes, curves, label in ((panels[0], lines, "steered to"), (panels[1], rates, "learning rate / its largest")):
        for (name, curve), (colour, _, style) in zip(curves, LINES, strict=False):
            axes.plot(progress, [curve(x) for x in progress], style, color=colour, linewidth=3, label=name)
        for point in (schedule.warmup, schedule.ramp_end, schedule.freeze_at):
            axes.axvline(point, color=GREY, zorder=0)
        axes.set(xlabel="progress of the run", ylabel=label, ylim=(0, 1.05))
        axes.legend(frameon=False)
    ends = (
        f"warm-up to {schedule.warmup:g}, pruning to {schedule.ramp_end:g}, mask fixed from {schedule.freeze_at:g} on"
    )
    figure.suptitle(f"A run: {ends}", fontweight="bold")
    return figure


@large
def plot_leaderboard(entries: pd.DataFrame) -> Board:
    """F1 of the entries (`leaderboard`), best first."""
    figure, axes = board(1.8 + 0.5 * len(entries))
    places = range(len(entries))
    bars = axes.barh(places, entries.f1, 0.6, color=BLUE, edgecolor=INK)
    told = [f"{row.f1:.1f}, density {row.density:.3f}, {row.seconds:.0f} s" for row in entries.itertuples()]
    axes.bar_label(bars, told, padding=4)
    axes.set(yticks=places, yticklabels=entries.name, xlabel="F1 on questions not learnt from, %", xlim=(0, 100))
    axes.invert_yaxis()
    leads = f"{entries.name[0]} leads with an F1 of {entries.f1[0]:.1f} %" if len(entries) else "Nobody has entered yet"
    axes.set_title(leads)
    return figure
