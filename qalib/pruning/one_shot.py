"""One-shot pruning: a run of optimal brain surgery in rounds on a few thousand windows, without a gradient step.

Each round removes what costs the loss least, over all matrices at once, refits what stays to the dense model's outputs,
sublayer by sublayer, and finds what the rest would cost (see `surgery`). A round needs the model and the costs of the
round before, which are its checkpoint.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from qalib.model import bert, checkpoint, saving
from qalib.pruning import record, surgery
from qalib.pruning.config import PruningConfig
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.losses import Batch
from qalib.pruning.one_shot_pruner import OneShotPruner
from qalib.pruning.plan import DEFINITION, DensityPlan, Plan, SpeedupPlan
from qalib.pruning.progress import Progress
from qalib.pruning.pruner import put_first
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
    assert config.teacher is not None  # see PruningConfig
    dense = checkpoint.load(config.teacher)
    questions = squad.load(config.data, "train").first(config.questions)
    eval_data = squad.load(config.eval_data).first(config.eval_questions) if config.eval_data else None
    # In random order, as neighbours share their contexts.
    order = np.random.default_rng(config.seed).permutation(len(questions))[: config.calibration_questions]
    data = SquadDataset([questions.questions[number] for number in order], dense.tokenizer)
    pruned = replace(dense.copy(), block=config.block)
    surgery.units(pruned.model, config.block, config.ffn)  # before anything is written
    plan: Plan = DensityPlan(config.density)
    if config.speedup is not None:
        progress.say("timing the model")
        plan = SpeedupPlan(dense, pruned, config.speedup)
    elif config.density >= (kept := surgery.kept_share(dense.model)):
        raise InputError(f"density {config.density:g}: must be below {kept:.3g}, what {dense.name} has left already")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtypes.choose((config.resume and folder.dtype()) or config.precision, dtypes.TRAINING, device)
    progress.note(f"passes in {dtype}; {dtypes.remark(dtype, dtypes.TRAINING, device)}")
    folder.start(config.to_dict(), dtype)
    machine.keep_freed_memory()
    for model in (pruned.model, dense.model):
        bert.to(model, device)
    settings = config.block, config.ffn, dtype, config.seed
    pruner = OneShotPruner(pruned.model, dense.model, lambda: _batches(data, device), *settings)
    state = _rounds(config, folder, pruner, plan, len(data), progress)
    if config.ffn == "hybrid":
        for layer in bert.layers(pruned.model):
            put_first(layer, (layer.output.dense.weight != 0).any(0))
    pruned.meta = record.origin(config, dense, dense, questions, data) | {
        "precision": dtype,
        "density": surgery.kept_share(pruned.model),
        "steps": state.rounds,
        "windows_seen": state.rounds * len(data),
        "training_seconds": round(state.seconds, 1),
        "processes": 1,
    }
    if state.speedup:
        cpu = str(machine.specs()["CPU"])
        pruned.meta["speedup"] = {"value": state.speedup, "definition": DEFINITION, "cpu": cpu}
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


@dataclass
class State:
    """How far a run is: complete rounds, their seconds, the speedup reached, and the density of the next round."""

    rounds: int = 0
    seconds: float = 0.0
    speedup: float | None = None
    next_density: float | None = None


def _rounds(
    config: PruningConfig, folder: RunFolder, pruner: OneShotPruner, plan: Plan, windows: int, progress: Progress
) -> State:
    """Prune in rounds, from the last complete one if resumed; returns the state after the last."""
    state, last = State(), folder.last_checkpoint() if config.resume else None
    if last:
        saved = torch.load(last / STATE, weights_only=True)
        state = State(**saved.pop("state"))
        pruner.load_state_dict(saved)
    folder.truncate_log(state.rounds)
    begun = time.monotonic() - state.seconds
    progress.begin(min(1, state.rounds / config.rounds))
    if not last:
        progress.say("what each block costs")
        pruner.prepare()
        state.next_density = plan.next_density(surgery.kept_share(pruner.model), config.rounds)
        if state.next_density is not None:
            pruner.price(state.next_density)
    while state.next_density is not None:
        state.rounds += 1
        name, done = f"round {state.rounds} of {config.rounds}", min(1, state.rounds / config.rounds)
        progress.doing(name)
        pruner.prune(target := state.next_density)
        density = surgery.kept_share(pruner.model)
        state.next_density = plan.next_density(density, config.rounds - state.rounds)
        if state.next_density is not None:
            pruner.price(state.next_density)
        state.speedup = plan.speedup and round(plan.speedup, 4)
        measured = {"speedup": f"{state.speedup:.2f}"} if state.speedup else {}
        progress.step(name, done, windows, density=f"{density:.3f}", **measured)
        state.seconds = time.monotonic() - begun
        folder.append_to_log(
            {
                "step": state.rounds,
                "windows": state.rounds * windows,
                "seconds": round(state.seconds, 1),
                "progress": round(done, 5),
                "precision": pruner.dtype,
                "density": round(density, 5),
                "steered_density": round(target, 5),
                "densities": {
                    f"{m.layer} {m.kind}": round((m.linear.weight != 0).double().mean().item(), 4)
                    for m in bert.matrices(pruner.model)
                },
            }
            | ({"speedup": state.speedup} if state.speedup else {})
        )
        folder.save(state.rounds, STATE, pruner.state_dict() | {"state": asdict(state)})
    return state


def _batches(data: SquadDataset, device: str) -> Iterator[Batch]:
    """All windows once, those of like length together, at most TOKENS or one window in a batch."""
    order = np.argsort(data.lengths, kind="stable")
    first = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - first) * data.lengths[order[end]] > TOKENS:
            batch: dict[str, Any] = data.collate(order[first:end])
            yield {name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()}
            first = end
