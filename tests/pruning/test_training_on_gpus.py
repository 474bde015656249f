"""What training does differently on a GPU, tested without one: where models are scored, norms, waiting for figures."""

from types import SimpleNamespace

import pytest
import torch

from qalib.pruning import progress, run
from qalib.pruning.callback import PruningCallback
from qalib.pruning.config import PruningConfig
from qalib.qa import squad


def test_the_last_scores_are_computed_on_the_device(sparse, monkeypatch):
    places = []

    def evaluate(model, tokenizer, questions, progress):
        places.append((model.device.type, model.training))
        return SimpleNamespace(score=SimpleNamespace(exact_match=1.0, f1=2.0))

    monkeypatch.setattr(run.evaluation, "evaluate", evaluate)
    trainer = SimpleNamespace(args=SimpleNamespace(device=torch.device("meta")))
    crew = SimpleNamespace(trainer=trainer, student=sparse, eval_data=None)
    assert run._score(sparse.model.train(), crew, squad.load("sample")) == {
        "exact_match": 1.0,
        "f1": 2.0,
    } and places == [("meta", False)]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_norms_are_in_bf16_on_a_cpu_only(sparse, monkeypatch, on_gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    run.prepare(sparse.model, 0.0)
    kinds = []
    sparse.model.bert.encoder.layer[0].register_forward_pre_hook(lambda layer, given: kinds.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        sparse.model(input_ids=torch.arange(8)[None])
    assert kinds == [torch.float32 if on_gpu else torch.bfloat16]


def test_figures_are_read_only_when_they_are_drawn(pruning_settings, tmp_path, monkeypatch, capsys):
    """24 steps in less time than the bar takes from one drawing to the next: the loss is read once, for the first."""
    read, item = [], torch.Tensor.item

    def counted(tensor):
        if tensor.requires_grad:
            read.append(tensor)
        return item(tensor)

    monkeypatch.setattr(progress, "REFRESH_SECONDS", 1e6)
    monkeypatch.setattr(torch.Tensor, "item", counted)
    run.prune(PruningConfig(**pruning_settings | {"log_steps": 1000}))
    assert len(read) == 1 and "loss=" in capsys.readouterr().err
    read.clear()
    run.prune(PruningConfig(**pruning_settings | {"log_steps": 1000, "out": tmp_path / "b"}), False)
    assert not read


def test_the_density_is_read_at_once(sparse, monkeypatch):
    from qalib.pruning.pruner import Pruner

    pruner, item, reads = Pruner(sparse.model, (8, 8)), torch.Tensor.item, []
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: reads.append(1) or item(tensor))
    assert pruner.density() == 1 and len(reads) == 1


def test_a_clock_of_one_process_is_not_sent_to_the_device(sparse):
    """Nothing is put on the device, `meta`, from which nothing can be read."""
    controller = SimpleNamespace(seconds=0.0, update=lambda progress: None)
    args = SimpleNamespace(device=torch.device("meta"), world_size=1)
    trainer = SimpleNamespace(
        controller=controller, pruner=None, progress=None, args=args, is_world_process_zero=lambda: True,
        config=SimpleNamespace(max_hours=None),
    )  # fmt: skip
    callback = PruningCallback(trainer, None, "bf16", None, None)
    callback.begun = 0.0
    callback._steer(SimpleNamespace(global_step=1, max_steps=2))
    assert controller.seconds > 0
