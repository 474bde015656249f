"""Speed over BERT-base: the scale on which papers compare models of different sizes."""

from dataclasses import replace

import pandas as pd
import torch
from transformers import BertConfig, BertForQuestionAnswering

from qalib import runtimes
from qalib.benchmark.baseline import over_fastest_dense
from qalib.benchmark.latency import round_counts
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.forward import forward, random_inputs
from qalib.utils import machine
from qalib.utils.timing import interleave

BASE = "BERT-base, dense"


def over_bert_base(
    checkpoint: Checkpoint,
    device: str = "cpu",
    batch: int = 4,
    length: int = 128,
    repeats: int = 5,
    progress: bool = True,
) -> pd.DataFrame:
    """Time a checkpoint, dense and under the best runtime of the device, beside BERT-base, dense, in the same rounds.

    BERT-base (arXiv 1810.04805, section 3) has random weights, on which its speed does not depend. One row per model,
    runtime and type that the device computes in hardware: model, runtime, dtype, device, threads, batch, length,
    rounds, median_seconds, spread_seconds, round_seconds, speedup (BERT-base of the same type / this, medians),
    best_baseline (BERT-base in its fastest type) and speedup_over_best (over that).
    """
    base = replace(checkpoint, model=BertForQuestionAnswering(BertConfig()).eval())
    timed = [(BASE, "dense", base), *((checkpoint.name, name, checkpoint) for name in ("dense", runtimes.best(device)))]
    candidates, rows = {}, []
    for model, runtime, made_from in timed:
        inputs = {name: tensor.to(device) for name, tensor in random_inputs(made_from, batch, length).items()}
        for dtype in machine.hardware_dtypes(device):
            module = runtimes.build(runtime, made_from, device, dtype)
            candidates[model, runtime, dtype] = lambda module=module, inputs=inputs: forward(module, inputs)
            rows.append({"model": model, "runtime": runtime, "dtype": dtype, "device": device})
    repeats, warmup = round_counts(repeats, device)
    timings = interleave(candidates, repeats, warmup, progress)
    for row in rows:
        timing = timings[row["model"], row["runtime"], row["dtype"]]
        row |= {
            "threads": torch.get_num_threads(),
            "batch": batch,
            "length": length,
            "rounds": len(timing.seconds),
            "median_seconds": timing.median,
            "spread_seconds": timing.iqr,
            "round_seconds": timing.seconds,
            "speedup": timings[BASE, "dense", row["dtype"]].median / timing.median,
        }
    table = pd.DataFrame(rows)
    return over_fastest_dense(table, among=table.model == BASE)
