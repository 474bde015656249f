"""One-shot pruning: a run of optimal brain surgery in rounds on a few thousand windows, without a gradient step.

Each round removes what costs the loss least, over all matrices at once, refits what stays to the dense model's outputs,
sublayer by sublayer, and finds what the rest would cost (see `surgery`). A round needs the model and the costs of the
round before, which are its checkpoint.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from qalib.model import bert, checkpoint, saving
from qalib.pruning import calibration, record, surgery
from qalib.pruning.config import PruningConfig
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import Batch
from qalib.pruning.progress import Progress
from qalib.pruning.pruner import sort_neurons
from qalib.pruning.run_folder import RunFolder
from qalib.qa import evaluation, squad
from qalib.runtimes import dtypes
from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.files import write_text

TOKENS = 2048  # in a batch: what BERT-base then holds, its gradients included, is below 4 GB
STATE = "model.pt"  # in a checkpoint


def prune(config: PruningConfig, folder: RunFolder, progress: Progress) -> None:
    """Prune the teacher by the method obs, from the last complete round if resumed, and write it to `config.out`.

    Raises InputError for a file that cannot be used, or several processes.
    """
    if (processes := PartialState().num_processes) > 1:
        raise InputError(f"method 'obs' needs a single process, not {processes}")
    progress.say("loading the model")
    dense = checkpoint.load(config.teacher)
    questions = squad.load(config.data, "train").first(config.questions)
    eval_data = squad.load(config.eval_data).first(config.eval_questions) if config.eval_data else None
    # In random order, as neighbours share their contexts.
    order = np.random.default_rng(config.seed).permutation(len(questions))[: config.calibration_questions]
    data = SquadDataset([questions.questions[number] for number in order], dense.tokenizer)
    pruned = replace(dense.copy(), block=config.block)
    surgery.units(pruned.model, config.block, config.ffn)  # before anything is written
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtypes.choose((config.resume and folder.dtype()) or config.precision, dtypes.TRAINING, device)
    progress.note(f"passes in {dtype}; {dtypes.remark(dtype, dtypes.TRAINING, device)}")
    folder.start(config.to_dict(), dtype)
    machine.keep_freed_memory()
    seconds = _rounds(config, folder, (dense.model.to(device), pruned.model.to(device)), data, dtype, progress)
    if config.ffn == "hybrid":
        for layer in bert.layers(pruned.model):
            sort_neurons(layer, (layer.output.dense.weight != 0).any(0))
    pruned.meta = record.origin(config, dense, dense, questions, data) | {
        "precision": dtype,
        "density": surgery.kept_share(pruned.model),
        "steps": config.rounds,
        "windows_seen": config.rounds * len(data),
        "training_seconds": round(seconds, 1),
        "processes": 1,
    }
    if eval_data:
        about = {"name": eval_data.description, "sha256": eval_data.sha256, "questions": len(eval_data)}
        pruned.meta["scores"] = {"data": about}
        for name, scored in (("teacher", dense), ("model", pruned)):
            progress.say(f"scoring the {name}")
            score = evaluation.evaluate(scored.model, dense.tokenizer, eval_data, progress=False).score
            pruned.meta["scores"][name] = {"exact_match": score.exact_match, "f1": score.f1}
    progress.say("saving")
    saving.save_packed(replace(pruned, model=pruned.model.cpu()), config.out)
    write_text(config.out / "log.jsonl", folder.full_log())


def _rounds(
    config: PruningConfig,
    folder: RunFolder,
    models: tuple[nn.Module, nn.Module],
    data: SquadDataset,
    dtype: str,
    progress: Progress,
) -> float:
    """Prune the second of two models, in place, to do as the first; returns the seconds that it took in all."""
    dense, model = models
    device = next(dense.parameters()).device.type
    last = folder.last_checkpoint() if config.resume else None
    done, seconds, prices = 0, 0.0, None
    if last:
        state = torch.load(last / STATE, weights_only=True)
        model.load_state_dict(state["model"])
        done, seconds, prices = state["round"], state["seconds"], state["costs"]
    folder.truncate_log(done)
    begun = time.monotonic() - seconds
    at_first = surgery.kept_share(dense)
    targets = [at_first - (at_first - config.density) * number / config.rounds for number in range(config.rounds + 1)]
    progress.begin(done / config.rounds)
    if done < config.rounds:
        progress.say("the curvature of the loss")
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            curvature = calibration.curvature(dense, _batches(data, device), config.seed)

    def fitted(kept: dict[str, Tensor]) -> dict[str, Tensor]:
        return surgery.refit(model, dense, calibration.Calibration(dense, _batches(data, device), dtype), kept)

    def priced(products: dict[str, Tensor], density: float) -> dict[str, Tensor]:
        return surgery.costs(model, products, curvature, density, config.block, config.ffn)

    for number in range(done + 1, config.rounds + 1):
        name, target = f"round {number} of {config.rounds}", targets[number]
        progress.doing(name)
        if prices is None:
            everything = surgery.masks(model, config.block, config.ffn)
            prices = priced(fitted(everything), target)
        products = fitted(surgery.choose(model, prices, target, config.block, config.ffn))
        prices = priced(products, targets[number + 1]) if number < config.rounds else {}
        progress.step(name, number / config.rounds, len(data), density=f"{surgery.kept_share(model):.3f}")
        seconds = time.monotonic() - begun
        folder.append_to_log(
            {
                "step": number,
                "windows": number * len(data),
                "seconds": round(seconds, 1),
                "progress": round(number / config.rounds, 5),
                "precision": dtype,
                "density": round(surgery.kept_share(model), 5),
                "steered_density": round(target, 5),
                "densities": {
                    f"{m.layer} {m.kind}": round((m.linear.weight != 0).double().mean().item(), 4)
                    for m in bert.matrices(model)
                },
            }
        )
        state = {"model": model.state_dict(), "round": number, "seconds": seconds, "costs": prices}
        folder.save(number, STATE, state)
    return seconds


def _batches(data: SquadDataset, device: str) -> Iterator[Batch]:
    """All windows once, those of like length together, at most TOKENS or one window in a batch."""
    order = np.argsort(data.lengths, kind="stable")
    first = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - first) * data.lengths[order[end]] > TOKENS:
            batch: dict[str, Any] = data.collate(order[first:end])
            yield {name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()}
            first = end
