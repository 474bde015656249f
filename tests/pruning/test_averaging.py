"""The mean of several models' weights."""

import copy
import shutil

import pytest
import torch

from qalib.model import bert, blocks, checkpoint, saving
from qalib.pruning import averaging, run
from qalib.pruning.config import PruningConfig
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json


def changed(sparse, seed):
    made = sparse.copy()
    generator = torch.Generator().manual_seed(seed)
    for value in made.model.parameters():
        value.data *= 0.5 + torch.rand(value.shape, generator=generator)
    return made


def test_the_mean_of_every_weight_in_the_same_blocks(sparse):
    models = [changed(sparse, seed) for seed in range(3)]
    before = copy.deepcopy(models[0].model.state_dict())
    made = averaging.average(models)
    for key, value in made.model.state_dict().items():
        expected = sum(m.model.state_dict()[key].double() for m in models) / 3
        assert torch.allclose(value.double(), expected, atol=1e-6), key
    for one, two in zip(bert.matrices(made.model), bert.matrices(sparse.model), strict=True):
        assert torch.equal(*(blocks.mask(matrix.linear.weight, sparse.block) for matrix in (one, two)))
    assert all(torch.equal(value, before[key]) for key, value in models[0].model.state_dict().items())


def test_runs_from_one_model_say_what_went_into_their_mean(pruning_settings, tmp_path):
    def trained(name, **settings):
        given = {"method": "fixed-mask", "epochs": 1, "out": tmp_path / name, "eval_data": pruning_settings["data"]}
        return checkpoint.load(run.prune(PruningConfig(**pruning_settings | given | settings), progress=False))

    student = trained("student", method="movement")
    runs = [trained(f"run{seed}", student=str(student.folder), seed=seed) for seed in (1, 2)]
    meta = checkpoint.load(saving.save_packed(averaging.average(runs), tmp_path / "mean")).meta
    assert [origin["sha256"] for origin in meta["average_of"]] == [r.sha256 for r in runs]
    assert [origin["made_by"] for origin in meta["average_of"]] == [r.meta for r in runs]
    assert "scores" not in meta and meta["windows_seen"] == 3 * student.meta["windows_seen"]
    del runs[1].meta["student"]  # not from the same model, as far as it says
    assert averaging.average(runs).meta["windows_seen"] == 4 * student.meta["windows_seen"]


def other_blocks(made, folder):
    weight = bert.matrices(made.model)[0].linear.weight.data
    kept = blocks.mask(weight, made.block)
    kept[tuple(kept.nonzero()[0])] = False
    weight *= blocks.expand(kept, made.block)


def other_neurons(made, folder):
    made.model.bert.encoder.layer[0].intermediate.dense = torch.nn.Linear(64, 64)


def other_labels(made, folder):
    made.model.qa_outputs = torch.nn.Linear(64, 2, bias=False)


def other_grid(made, folder):
    made.block = (4, 4)


def other_words(made, folder):
    shutil.copytree(made.folder, folder)
    words = read_json(folder / "tokenizer.json")
    vocabulary = words["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    write_json(folder / "tokenizer.json", words)
    made.folder = folder
    made.__dict__.pop("tokenizer", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_blocks, r"in bert.encoder.layer.0.\S+, 1 of 64 blocks are kept by one of them only"),
        (other_neurons, r"intermediate.dense.weight is \(128, 64\) in one and \(64, 64\) in the other"),
        (other_labels, r"qa_outputs.bias is \(2,\) in one and absent in the other"),
        (other_grid, "BERT in blocks of 8x8 against BERT in blocks of 4x4"),
        (other_words, "their tokenizers have different vocabularies"),
    ],
)
def test_models_that_cannot_be_averaged(sparse, tmp_path, change, message):
    other = sparse.copy()
    change(other, tmp_path / "other")
    with pytest.raises(InputError, match=f"tiny-sparse and .* cannot be averaged: .*{message}"):
        averaging.average([sparse, other])


def test_one_model_has_no_average(sparse):
    with pytest.raises(InputError, match="two models or more, not 1"):
        averaging.average([sparse])
