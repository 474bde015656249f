"""Weight files as people have them: of wrappers and training tools, in shards, in whole pickles, not fetched."""

import pickle
import shutil
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from builders import write_shards
from torch import nn
from torch.nn.utils import prune

from qalib.cli import commands
from qalib.model import bert, checkpoint, saving, weight_files
from qalib.model.formats import PACKED, PICKLED, SAFETENSORS
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 45144116\n"


@pytest.fixture
def dense(dense_folder):
    return checkpoint.load(dense_folder)


@pytest.fixture
def folder(dense_folder, tmp_path):
    """The dense checkpoint's folder without its weights."""
    target = tmp_path / "model"
    shutil.copytree(dense_folder, target, ignore=shutil.ignore_patterns(SAFETENSORS))
    return target


def assert_same(folder, expected):
    """The weights in a folder are those of a checkpoint."""
    loaded = checkpoint.load(folder)
    assert loaded.format == "transformers"
    state = loaded.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in expected.model.state_dict().items())


def assert_refused(folder, message):
    with pytest.raises(InputError, match=message) as error:
        checkpoint.load(folder)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.",
                                    "model._orig_mod.", "_forward_module.model.", "_fsdp_wrapped_module."])  # fmt: skip
@pytest.mark.parametrize("name", [SAFETENSORS, PICKLED])
def test_prefixes_of_wrappers_are_taken_off(dense, folder, prefix, name):
    state = {prefix + key: value for key, value in dense.model.state_dict().items()}
    save = torch.save if name == PICKLED else safetensors.torch.save_file
    save(state, folder / name)
    assert_same(folder, dense)


def test_a_model_wrapped_by_torch_itself(dense, folder):
    model = dense.copy().model
    model.bert.encoder.layer[1] = torch.compile(model.bert.encoder.layer[1])  # the wrapper is within the name
    torch.save(nn.DataParallel(torch.compile(model)).state_dict(), folder / PICKLED)
    assert_same(folder, dense)


def test_two_names_for_one_tensor(dense, folder):
    state = dense.model.state_dict()
    torch.save(state | {"module.qa_outputs.bias": torch.zeros(2)}, folder / PICKLED)
    assert_refused(folder, f"{PICKLED}: two tensors stand for qa_outputs.bias; one of them is module.qa_outputs.bias")


def test_a_bert_whose_layer_norms_have_the_names_of_tensorflow(dense, folder):
    endings = {new: old for old, new in weight_files.OLD_ENDINGS.items()}
    state = {}
    for key, value in dense.model.state_dict().items():
        ending = next((ending for ending in endings if key.endswith(ending)), "")
        state[key.removesuffix(ending) + endings.get(ending, "")] = value
    assert "bert.embeddings.LayerNorm.gamma" in state
    torch.save(state, folder / PICKLED)
    assert_same(folder, dense)


def test_masks_of_torch_prune_are_multiplied(dense, folder):
    pruned = dense.copy()
    for matrix in bert.matrices(pruned.model):
        prune.random_unstructured(matrix.linear, "weight", 0.3)
    prune.l1_unstructured(pruned.model.qa_outputs, "bias", 1)
    state = {f"module.{key}": value for key, value in pruned.model.state_dict().items()}
    assert "module.qa_outputs.bias_mask" in state
    torch.save(state, folder / PICKLED)
    for matrix in bert.matrices(pruned.model):
        prune.remove(matrix.linear, "weight")
    prune.remove(pruned.model.qa_outputs, "bias")
    assert (pruned.model.qa_outputs.bias == 0).sum() == 1
    assert_same(folder, pruned)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("qa_outputs.bias_mask"), "missing: qa_outputs.bias; unexpected: qa_outputs.bias_orig"),
        (lambda state: state.pop("qa_outputs.bias_orig"), "missing: qa_outputs.bias; unexpected: qa_outputs.bias_mask"),
        (lambda state: state.update({"qa_outputs.bias": torch.ones(2)}), "unexpected: qa_outputs.bias_mask, qa_output"),
        (
            lambda state: state.update({"qa_outputs.bias_mask": torch.ones(3)}),
            r"qa_outputs.bias_mask has the shape \(3,\), but qa_outputs.bias_orig \(2,\)",
        ),
        (
            lambda state: state.update(dict.fromkeys(
                ("qa_outputs.bias_mask", "qa_outputs.bias_orig"), torch.zeros(1).expand(10**12))),
            "missing: qa_outputs.bias; unexpected: ",
        ),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(dense, folder, change, message):
    prune.identity(dense.model.qa_outputs, "bias")
    change(state := dense.model.state_dict())
    torch.save(state, folder / PICKLED)
    assert_refused(folder, message)


@pytest.mark.parametrize("name", [SAFETENSORS, PICKLED])
def test_shards(dense, folder, name):
    state = {f"module.{key}": value for key, value in dense.model.state_dict().items()}
    index = write_shards(folder, state, name)
    assert_same(folder, dense)
    loaded = checkpoint.load(folder)
    files = [index, *sorted(folder.glob("*-of-*"))]
    assert loaded.weight_file == index and list(loaded.weight_files) == files
    assert loaded.file_bytes == sum(path.stat().st_size for path in files)
    before = loaded.sha256
    files[-1].write_bytes(files[-1].read_bytes() + b"\0")
    assert checkpoint.Checkpoint.sha256.func(loaded) != before
    files[-1].unlink()
    assert_refused(folder, f"{index.name}: the shard {files[-1].name} is missing")


@pytest.mark.parametrize("name", ["../model/{0}", "/{0}", "sub/{0}", "..", "", "config.json", "a\\{0}", "a\0{0}"])
def test_an_index_that_leads_elsewhere(dense, folder, name):
    index = write_shards(folder, dense.model.state_dict(), SAFETENSORS)
    value = read_json(index)
    key, shard = next(iter(value["weight_map"].items()))
    value["weight_map"][key] = name.format(shard)
    write_json(index, value)
    assert_refused(folder, f"{index.name}: a shard must be a .safetensors file in the same folder, but there is '")


def test_an_index_and_shards_that_disagree(dense, folder):
    index = write_shards(folder, dense.model.state_dict(), SAFETENSORS)
    for value in ({}, {"weight_map": {}}, {"weight_map": {"a": 3}}, {"weight_map": ["a"]}):
        write_json(index.with_name("other.json"), value)
        with pytest.raises(InputError, match="other.json: expected a weight_map, an object {tensor: file}"):
            weight_files._read_shards(index.with_name("other.json"))
    first, second, _ = sorted(folder.glob("*-of-*"))
    value = read_json(index)
    value["weight_map"] |= {"extra": second.name}
    write_json(index, value)
    assert_refused(folder, f"{second.name}: extra is not in it, but {index.name} says so")
    shutil.copy(first, second)
    assert_refused(folder, f"{second.name}: .* is in another shard, too")


@pytest.mark.parametrize("old", [False, True])
def test_a_whole_model_is_refused_with_what_to_do(dense, folder, old):
    torch.save(dense.model, folder / PICKLED, _use_new_zipfile_serialization=not old)
    name = "transformers.models.bert.modeling_bert.BertForQuestionAnswering"
    assert_refused(
        folder, f"{PICKLED}: .*only plain tensors are read.*: it holds a pickled {name}; .*, save its state_dict"
    )


@pytest.mark.parametrize("key", weight_files.STATE_DICTS)
def test_a_training_checkpoint_around_the_weights(dense, folder, key):
    state = OrderedDict((f"module.{key}", nn.Parameter(value)) for key, value in dense.model.state_dict().items())
    torch.save({"epoch": 3, key: state, "optimizer": {"state": {}, "param_groups": []}}, folder / PICKLED)
    assert_same(folder, dense)
    other = next(name for name in weight_files.STATE_DICTS if name != key)
    torch.save({key: state, other: state}, folder / PICKLED)
    assert_refused(folder, f"{PICKLED}: holds .* and .*, but one model is expected; .*save its state_dict")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "value, message",
    [
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), r"'w' is a tensor \(nested\)"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged), "'w' is a tensor|NestedTensor"),
        (lambda: torch.zeros(2, 2).to_sparse(), r"'w' is a tensor \(sparse_coo\)"),
        (lambda: torch.zeros(2, device="meta"), r"'w' is a tensor \(meta\)"),
        (lambda: {"a": torch.zeros(2)}, "'w' is a dict"),
        (lambda: 3, "'w' is a int"),
    ],
)
def test_what_is_no_plain_tensor(folder, value, message):
    torch.save({"w": value()}, folder / PICKLED)
    assert_refused(folder, message)


def test_tied_tensors_are_untied_and_exported(dense, folder, tmp_path):
    state = dense.model.state_dict()
    tied = ["bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.0.output.dense.weight"]
    state[tied[0]] = state[tied[1]]
    rows = torch.randn(3, 64)
    biases = [f"bert.encoder.layer.0.attention.self.{kind}.bias" for kind in ("query", "key", "value")]
    state |= dict(zip(biases, rows, strict=True))  # parts of one storage
    torch.save(state, folder / PICKLED)
    loaded = checkpoint.load(folder)
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    storages = [parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()]
    assert len(storages) == len(set(storages))
    assert_same(saving.save_transformers(loaded, tmp_path / "out"), loaded)


@pytest.mark.parametrize("name", [PACKED, SAFETENSORS, PICKLED, "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(dense_folder, tmp_path, monkeypatch, capsys, name):
    folder = tmp_path / "model"
    shutil.copytree(saving.save_transformers(checkpoint.load(dense_folder), tmp_path / "plain"), folder)
    if name not in ("config.json", "tokenizer.json"):
        (folder / SAFETENSORS).unlink()
    (folder / name).write_text(POINTER)
    monkeypatch.setattr("sys.argv", ["qalib", "answer", "Who?", "He.", "--model", str(folder)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    expected = f"qalib: {folder / name}: a Git LFS pointer instead of the file; `git lfs pull` fetches the file\n"
    assert capsys.readouterr().err == expected


def test_a_shard_that_is_a_git_lfs_pointer(dense, folder):
    write_shards(folder, dense.model.state_dict(), SAFETENSORS)
    shard = sorted(folder.glob("*-of-*"))[1]
    shard.write_text(POINTER)
    assert_refused(folder, f"{shard.name}: a Git LFS pointer instead of the file")


def test_a_pickle_of_another_class_is_refused_with_what_to_do(folder):
    (folder / PICKLED).write_bytes(pickle.dumps({"w": pytest.Item}, 2))
    assert_refused(
        folder, "only plain tensors are read.*: it holds a pickled _pytest.nodes.Item; .* save its state_dict"
    )
