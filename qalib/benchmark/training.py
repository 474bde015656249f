"""Training steps timed side by side: dense, under a fixed mask, and under a mask that moves.

Each way runs in a process of its own, `python -m qalib.benchmark.training` with the arguments of `steps` as a JSON
list, so that its peak of memory is its own.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from qalib.model import bert, blocks, checkpoint
from qalib.model.checkpoint import Checkpoint
from qalib.pruning import run
from qalib.pruning.config import PruningConfig
from qalib.pruning.losses import span_logits, training_losses
from qalib.runtimes.forward import random_inputs
from qalib.utils import machine
from qalib.utils.errors import InputError

DENSE, FIXED, MOVEMENT = "dense", "fixed-mask", "movement"
METHODS = (DENSE, FIXED, MOVEMENT)


def compare(
    models: Sequence[str],
    dtype: str = "fp32",
    batch: int = 16,
    length: int = 256,
    rounds: int = 2,
    steps: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Time steps of training on the CPU: dense the first model, then each under a fixed mask and by movement pruning.

    A step is forward and backward over `batch` windows of `length` tokens, clipping, and AdamW; masks are the blocks
    that a model has. The ways take turns, `rounds` times, each in a fresh process with a step of warm-up and `steps`
    that count. One row per way: method, model, density (of the encoder matrices), dtype, batch, length, threads,
    median_seconds, windows_per_second, speedup (over the first row), peak_bytes (of resident memory) and
    round_seconds. Raises InputError if a process fails.
    """
    ways = [(DENSE, models[0]), *((method, model) for model in models for method in (FIXED, MOVEMENT))]
    results: dict[tuple[str, str], list[dict[str, Any]]] = {way: [] for way in ways}
    with tqdm(total=rounds * len(ways), unit="process", desc="training", disable=not progress) as bar:
        for _ in range(rounds):
            for way in ways:
                bar.set_postfix_str(" ".join(way))
                results[way].append(_apart(*way, dtype, batch, length, steps))
                bar.update()
    rows = []
    for (method, model), measured in results.items():
        seconds = [second for each in measured for second in each["seconds"]]
        median = pd.Series(seconds).median()
        rows.append(
            {
                "method": method,
                "model": model,
                "density": measured[0]["density"],
                "dtype": dtype,
                "batch": batch,
                "length": length,
                "threads": measured[0]["threads"],
                "median_seconds": median,
                "windows_per_second": batch / median,
                "peak_bytes": max(each["peak_bytes"] for each in measured),
                "round_seconds": tuple(seconds),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(9, "speedup", table.median_seconds[0] / table.median_seconds)
    return table


def steps(method: str, model: str, dtype: str, batch: int, length: int, count: int) -> dict[str, Any]:
    """Seconds of `count` training steps in this process, after one of warm-up, its peak of memory and the density."""
    machine.keep_freed_memory()
    torch.set_flush_denormal(True)
    student = checkpoint.load(model)
    module, parameters, density = _prepared(method, student)
    ids = random_inputs(student, batch, length)["input_ids"]
    inputs = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    inputs["positions"] = torch.randint(length, (batch, 2), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(parameters, 1e-5, weight_decay=0.0, fused=True)
    del student
    seconds = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = training_losses(module, lambda batch: None, inputs, alpha=0.0)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds[1:], "peak_bytes": peak, "density": density, "threads": torch.get_num_threads()}


def _prepared(method: str, student: Checkpoint) -> tuple[Any, list[nn.Parameter], float]:
    """What gives the span logits, what is trained of it, and its density."""
    run.prepare(student.model, dropout=0.0)
    student.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    if method == DENSE:
        module = partial(span_logits, student.model.train())
        return module, [p for p in student.model.parameters() if p.requires_grad], 1.0
    kept = [blocks.mask(matrix.linear.weight, student.block) for matrix in bert.matrices(student.model)]
    settings = {"teacher": student.name, "data": "sample", "out": "unused", "method": method, "block": student.block}
    pruner = run.pruner(student, PruningConfig(**settings)).train()
    if method == MOVEMENT:
        for scores, mask in zip(pruner.scores, kept, strict=True):
            scores.values.data = mask.float() - 0.5
        pruner.set_threshold(0.0)
    return pruner, [p for p in pruner.parameters() if p.requires_grad], pruner.density()


def _apart(*arguments: str | int) -> dict[str, Any]:
    """`steps` in a process of its own, which ends by itself, whatever becomes of this one."""
    command = [sys.executable, "-m", __name__, json.dumps(arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        raise InputError(f"training {arguments[1]} ({arguments[0]}): exit code {done.returncode}: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(steps(*json.loads(sys.argv[1]))))
