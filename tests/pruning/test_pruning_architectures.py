"""RoBERTa, DistilBERT and MPNet are pruned as BERT is: the same masks, the same densities, files in their own names."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

from qalib import runtimes, sparsity
from qalib.model import checkpoint, saving
from qalib.pruning import run
from qalib.pruning.config import PruningConfig

INPUTS = {"input_ids": torch.arange(40).view(2, 20) + 5}


def logits(module):
    with torch.inference_mode():
        output = module(**INPUTS)
    return torch.stack([output.start_logits, output.end_logits])


@pytest.mark.parametrize("name", ["roberta", "distilbert", "mpnet"])
@pytest.mark.parametrize("ffn", ["block", "hybrid"])
def test_pruned_to_a_density(name, ffn, pruning_settings, request, tmp_path):
    folder = request.getfixturevalue(name)
    settings = pruning_settings | {"teacher": str(folder), "density": 0.3, "ffn": ffn, "epochs": 1}
    scored = {"eval_data": settings["data"], "eval_questions": 4}
    out = run.prune(PruningConfig(**settings | scored), progress=False)
    loaded = checkpoint.load(out)
    assert loaded.architecture.model_type == name and loaded.format == "packed"
    assert loaded.meta["density"] == pytest.approx(0.3, abs=0.005)
    found = sparsity.summary(loaded)
    assert found.linear_density_percent == pytest.approx(100 * loaded.meta["density"], abs=0.1)
    assert 0 <= loaded.meta["scores"]["model"]["f1"] <= 100
    prefix = f"{name}.transformer.layer.0" if name == "distilbert" else f"{name}.encoder.layer.0"
    assert any(key.startswith(prefix) for key in load_file(loaded.weight_file))
    for runtime in runtimes.available("cpu"):
        assert (logits(runtimes.build(runtime, loaded)) - logits(loaded.model)).abs().max() < 1e-4
    plain = AutoModelForQuestionAnswering.from_pretrained(saving.save_transformers(loaded, tmp_path / "plain"))
    assert (logits(plain.eval()) - logits(loaded.model)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["roberta", "distilbert", "mpnet"])
def test_what_was_pruned_trains_on_cut_to_size(name, pruning_settings, request, tmp_path):
    settings = pruning_settings | {"teacher": str(request.getfixturevalue(name)), "epochs": 0.5, "density": 0.3}
    first = run.prune(PruningConfig(**settings), progress=False)
    more = {"student": str(first), "out": tmp_path / "again", "method": "fixed-mask"}
    again = checkpoint.load(run.prune(PruningConfig(**settings | more), progress=False))
    before, after = (sparsity.block_masks(checkpoint.load(folder)) for folder in (first, again.folder))
    assert not any((after[key] & ~before[key]).any() for key in before)
    assert again.architecture.model_type == name


def test_hidden_states_are_distilled_and_the_table_stays(mpnet, pruning_settings):
    settings = {"teacher": str(mpnet), "epochs": 0.5, "density": 0.3, "hidden_weight": 1.0, "method": "magnitude"}
    out = checkpoint.load(run.prune(PruningConfig(**pruning_settings | settings), progress=False))
    before, after = (
        loaded.model.bert.encoder.relative_attention_bias.weight for loaded in (checkpoint.load(mpnet), out)
    )
    assert torch.equal(before.half().float(), after)
    before, after = (
        loaded.model.bert.embeddings.position_embeddings.weight for loaded in (checkpoint.load(mpnet), out)
    )
    assert not torch.equal(before.half().float(), after)
