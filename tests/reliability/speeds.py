"""Speed of the parts beside the model, and memory of loading."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from builders import squad_file

from qalib import runtimes, sparsity
from qalib.model import checkpoint, hub, saving, synthetic
from qalib.qa import answering, batching, evaluation, metric, squad, windows
from reliability import trial
from reliability.trial import Section

SHARED = Path(os.environ.get("QALIB_SHARED", trial.ROOT.parent / "shared"))
DEV = SHARED / "squad" / "dev-v1.1.json"
SOURCE = f"of {DEV.name}" if DEV.exists() else "of the sample, repeated"
GOAL = 10  # % of the evaluation, at most
PEAK = """
import sys
def memory(key):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) * 1024
from qalib.model import checkpoint, saving
checkpoint.load(sys.argv[1])
before = memory('VmRSS')
with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')
model = checkpoint.load(sys.argv[2]).model
print(memory('VmHWM') - before, sum(p.numel() for p in model.parameters()) * 4)
"""


def question_file(path: Path, count: int) -> Path:
    """So many questions as a file: of dev if it is there, else of the sample, again and again under other ids."""
    source = squad.load(str(DEV) if DEV.exists() else "sample").questions
    some = islice(cycle(source), count)
    return squad_file(path, (replace(q, id=f"{q.id}-{number}") for number, q in enumerate(some)))


def _median(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def parts(count: int = 1000, repeats: int = 3, twin_questions: int = 48) -> Section:
    """Time each part on so many questions; `twin_questions` are enough for the twin's evaluation (0: no twin)."""
    section = Section(
        "Speed of the parts beside the model", f"The bundled model (block-sparse where it is the fastest) over "
        f"{count:,} questions {SOURCE}, fp32 on the CPU; medians of {repeats} rounds.",
        ("part", "seconds", "of the evaluation, %", f"goal: at most {GOAL} %"),
    )  # fmt: skip

    def add(name: str, seconds: float, whole: float) -> None:
        share = 100 * seconds / whole
        section.row(name, f"{seconds:.3f}", f"{share:.2f}", "met" if share <= GOAL else "missed")
        section.expect(share <= GOAL, f"{name} takes {share:.1f} % of the evaluation")

    loaded = checkpoint.load("bundled")
    with tempfile.TemporaryDirectory() as name:
        path = question_file(Path(name) / "questions.json", count)
        asked = squad.read(path)
        reading = _median(lambda: squad.read(path), repeats)
    model = runtimes.build(runtimes.best("cpu"), loaded, "cpu")
    answers = [answering.answer(model, loaded.tokenizer, asked, progress=False) for _ in range(repeats)]
    whole = statistics.median(a.seconds for a in answers)
    section.row("the evaluation, texts in to answers out", f"{whole:.3f}", "100", "")
    section.row("of it the model", f"{statistics.median(a.model_seconds for a in answers):.3f}", "", "")
    add("reading SQuAD", reading, whole)
    texts = [q.question for q in asked], [q.context for q in asked]
    add("windows", _median(lambda: windows.windows(loaded.tokenizer, *texts), repeats), whole)
    cut = windows.windows(loaded.tokenizer, *texts)
    batches = list(batching.batches(cut, batching.LENGTH_SORTED))
    logits = [torch.randn(2, len(batch), max(map(len, batch))) for batch in batches]
    add(
        "decoding (best spans)",
        _median(
            lambda: [answering.best_spans(*pair, batch) for pair, batch in zip(logits, batches, strict=True)], repeats
        ),
        whole,
    )
    add("metric", _median(lambda: metric.score(asked, answers[0].texts), repeats), whole)
    add("a row a question, scored", _median(lambda: evaluation.per_question(asked, answers[0].texts), repeats), whole)
    if twin_questions:
        _structure(section, add, asked, count, twin_questions, repeats)
    return section


def _structure(section: Section, add: Callable, asked: tuple, count: int, few: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = checkpoint.load(synthetic.make_twin(Path(name) / "twin", vocabulary=hub.BUNDLED))
        analysis = _median(lambda: (sparsity.summary(base), sparsity.tables(base), sparsity.block_masks(base)), repeats)
        model = runtimes.build(runtimes.best("cpu"), base, "cpu")
        seconds = answering.answer(model, base.tokenizer, asked[:few], progress=False).seconds * count / few
    parameters = sum(p.numel() for p in base.model.parameters()) / 1e6
    what = f"evaluation with a BERT-base twin ({parameters:.0f} M parameters), from {few} questions to {count:,}"
    section.row(what, f"{seconds:.3f}", "100", "")
    add("structure analysis of the twin", analysis, seconds)


def loading(names: tuple[str, ...] = ("packed fp16", "packed fp32", "2021", "transformers")) -> Section:
    """Peak memory of loading a BERT-base twin from each format."""
    section = Section(
        "Memory of loading", "A BERT-base twin in each format, loaded in a process of its own that has loaded the "
        "bundled model before. A loaded model is full-size and fp32 whatever its file holds.",
        ("format", "file, MB", "model in memory, MB", "peak, MB", "peak / file", "peak / the larger of the two"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        made = synthetic.make_twin(base / "2021", vocabulary=hub.BUNDLED)
        for form in names:
            folder = base / form
            if form.startswith("packed"):
                saving.save_packed(checkpoint.load(made), folder, form.split()[1])
            elif form == "transformers":
                saving.save_transformers(checkpoint.load(made), folder)
            command = [sys.executable, "-c", PEAK, "bundled", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env=trial.ENVIRONMENT)
            if not section.expect(done.returncode == 0, f"{form}: {done.stderr[-400:]}"):
                continue
            file = checkpoint.load(folder).file_bytes
            peak, model = map(int, done.stdout.split())
            larger = peak / max(file, model)
            section.row(form, *(f"{n / 1e6:.0f}" for n in (file, model, peak)), f"{peak / file:.2f}", f"{larger:.2f}")
            section.expect(larger <= 2, f"{form}: {larger:.2f} times the larger of file and model")
    section.notes += [
        "peak: the largest resident memory while loading less that before it, pages of the file that are mapped "
        "included; expected: at most twice the larger of file and model",
        "of a packed file twice its own size cannot be: the model alone that comes out of it is larger",
    ]
    return section
