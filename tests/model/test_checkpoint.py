import io
import json
import os
import pickle
import re
import shutil
import struct
import sys

import pytest
import safetensors.torch
import torch
from conftest import write_2021
from transformers import AutoModelForQuestionAnswering

from qalib import sparsity
from qalib.cli import commands
from qalib.model import bert, blocks, checkpoint, description, formats, restore, saving
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, write_json

INPUTS = {"input_ids": torch.arange(5, 25)[None], "attention_mask": torch.ones(1, 20, dtype=torch.long)}
CUT = {0: [2, 3], 1: [0, 1, 2, 3]}  # head 1 of layer 0 has no values, and stays in the file


def logits(model):
    with torch.inference_mode():
        output = model(**INPUTS)
    return torch.stack([output.start_logits, output.end_logits])


def same_weights(one, other):
    other = dict(other.model.state_dict())
    return all(torch.equal(value, other[key]) for key, value in one.model.state_dict().items())


@pytest.fixture
def cut_folder(sparse, tmp_path):
    """As of 2021, the heads of CUT zeroed in `sparse` too."""
    return write_2021(sparse, CUT, tmp_path / "cut")


def test_packed_comes_back_exactly_and_is_small(sparse, packed_folder, dense_folder):
    assert sparse.format == "packed" and sparse.block == (8, 8)
    kept = sum(int(blocks.mask(m.linear.weight, (8, 8)).sum()) * 64 for m in bert.matrices(sparse.model))
    others = sum(p.numel() for p in sparse.model.parameters()) - sum(
        m.linear.weight.numel() for m in bert.matrices(sparse.model)
    )
    state = safetensors.torch.load_file(packed_folder / formats.PACKED)
    stored = sum(t.numel() * t.element_size() for t in state.values())
    assert 4 * (kept + others) <= stored <= 1.02 * 4 * (kept + others)


def test_packed_twice_is_the_same_file(sparse, packed_folder, tmp_path):
    for number in range(5):
        again = saving.save_packed(sparse, tmp_path / str(number), "fp32") / formats.PACKED
        assert again.read_bytes() == (packed_folder / formats.PACKED).read_bytes()


def test_packed_in_fp16_rounds_and_halves(sparse, tmp_path):
    packed = checkpoint.load(saving.save_packed(sparse, tmp_path / "half", "fp16"))
    assert packed.file_bytes < 0.56 * sparse.file_bytes
    rounded = {key: value.half().float() for key, value in sparse.model.state_dict().items()}
    assert all(torch.equal(value, rounded[key]) for key, value in packed.model.state_dict().items())


def test_packed_in_int8_is_off_by_half_a_step_and_keeps_every_weight(sparse, tmp_path):
    folder = saving.save_packed(sparse, tmp_path / "int8", "int8")
    packed = checkpoint.load(folder)
    own, others = dict(sparse.model.named_parameters()), dict(packed.model.named_parameters())
    for matrix in bert.matrices(sparse.model):
        before, after = own[f"{matrix.name}.weight"], others[f"{matrix.name}.weight"]
        assert torch.equal(before.sign(), after.sign())  # the same density, to the weight
        tiles = blocks.split(before, sparse.block)
        step = tiles.abs().amax(-1, keepdim=True) / 127
        off = (tiles - blocks.split(after, sparse.block)).abs()
        assert (off <= torch.where(tiles.abs() < step / 2, step, step / 2) * 1.001).all() and off.any()
    words, again = (p["bert.embeddings.word_embeddings.weight"] for p in (own, others))
    assert ((words - again).abs() <= words.abs().amax(-1, keepdim=True) / 127 * 1.001).all()
    others_kept = "bert.encoder.layer.0.output.LayerNorm.weight"
    assert torch.equal(own[others_kept].half().float(), others[others_kept])
    sizes = sparsity.file_sizes(packed).set_index("form").bytes
    header = packed.file_bytes - sizes["packed int8"]
    assert 0 < header < 30_000 and sizes["packed int8"] < 0.65 * sizes["packed fp16"]
    again = saving.save_packed(packed, tmp_path / "again", "int8")
    assert same_weights(packed, checkpoint.load(again))  # packing twice loses nothing more


def assert_refused(path, damage, message):
    """A packed file whose tensors are damaged so is refused with this message."""
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
    state = safetensors.torch.load_file(path)
    damage(state)
    safetensors.torch.save_file(state, path, metadata=header)
    with pytest.raises(InputError, match=re.escape(message)):
        checkpoint.load(path.parent)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda state, key: state.pop(f"{key}.scales"), "not floating point: {key} is torch.int8"),
        (lambda state, key: state.update({f"{key}.scales": torch.ones(3)}), "{key}: (3,) scales do not fit"),
        (lambda state, key: state.update({key: state[key].float()}), "{key}: values of torch.float32 with scales"),
        (lambda state, key: state[f"{key}.scales"].fill_(float("nan")), "not finite in float32: {key}"),
        (lambda state, key: state.pop(key), "unexpected: {key}.scales"),
        (
            lambda state, key: state[f"{key}.scales"].view(-1)[0].fill_(-1),
            "{key}: scales must be positive, and one is -1",
        ),
        (lambda state, key: state[f"{key}.scales"].fill_(0), "{key}: scales must be positive, and one is 0"),
        (
            lambda state, key: state[key].view(-1)[0].fill_(-128),
            "{key}: int8 values must be from -127 to 127, and one is -128",
        ),
    ],
)
def test_scales_that_do_not_fit(sparse, tmp_path, damage, message):
    key = "bert.embeddings.word_embeddings.weight"
    path = saving.save_packed(sparse, tmp_path / "int8", "int8") / formats.PACKED
    assert_refused(path, lambda state: damage(state, key), message.format(key=key))


@pytest.fixture
def without_neurons(sparse):
    """A checkpoint with single neurons pruned in its first layer, which stand in every block."""
    layer = bert.layers(sparse.model)[0]
    with torch.no_grad():
        removed = torch.arange(sparse.model.config.intermediate_size) % 4 != 0
        layer.intermediate.dense.weight[removed] = 0
        layer.output.dense.weight[:, removed] = 0
    return sparse


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_neurons_pruned_one_by_one_are_not_stored(without_neurons, tmp_path, dtype):
    path = saving.save_packed(without_neurons, tmp_path / "packed", dtype) / formats.PACKED
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "qalib-packed-3"}
        assert len([key for key in file.keys() if key.endswith((".rows", ".columns"))]) == 4  # noqa: SIM118
    stored = sum(len(v) for k, v in safetensors.torch.load_file(path).items() if k.endswith(".blocks"))
    kept = sum(int(blocks.mask(m.linear.weight, (8, 8)).sum()) for m in bert.matrices(without_neurons.model))
    assert stored < kept
    again = checkpoint.load(path.parent)
    header = again.file_bytes - sparsity.file_sizes(again).set_index("form").bytes[f"packed {dtype}"]
    assert 0 < header < 30_000
    for matrix, found in zip(bert.matrices(without_neurons.model), bert.matrices(again.model), strict=True):
        assert torch.equal(matrix.linear.weight != 0, found.linear.weight != 0), matrix.name
        tolerance = 0 if dtype == "fp32" else matrix.linear.weight.abs().max() / 127
        assert (matrix.linear.weight - found.linear.weight).abs().max() <= tolerance


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda state, key: state.pop(f"{key}.rows"), "{key}: one of rows and columns is there"),
        (lambda state, key: state.update({f"{key}.rows": state[f"{key}.rows"][:1]}), "{key}: a bitmap of 1 bytes does"),
        (lambda state, key: state[f"{key}.rows"].fill_(0), "{key}: a bitmap of"),
        (lambda state, key: state.update({f"{key}.columns": torch.ones(2)}), "{key}: a bitmap of 2 bytes does not"),
    ],
)
def test_rows_and_columns_that_do_not_fit(without_neurons, tmp_path, damage, message):
    key = "bert.encoder.layer.0.intermediate.dense.weight"
    path = saving.save_packed(without_neurons, tmp_path / "packed", "fp32") / formats.PACKED
    assert_refused(path, lambda state: damage(state, key), message.format(key=key))


def test_a_packed_file_of_a_later_version_is_refused(sparse, tmp_path):
    path = saving.save_packed(sparse, tmp_path / "later", "fp32") / formats.PACKED
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata={"format": "qalib-packed-4"})
    known = "'qalib-packed', 'qalib-packed-2', 'qalib-packed-3'"
    with pytest.raises(InputError, match=f'"qalib-packed-4".*; formats supported: {known}'):
        checkpoint.load(path.parent)


def test_a_weight_that_fp16_cannot_hold_is_refused(sparse, tmp_path):
    sparse.model.qa_outputs.bias.data[0] = 1e6
    with pytest.raises(InputError, match="qa_outputs.bias has a value that fp16 cannot hold"):
        saving.save_packed(sparse, tmp_path / "half", "fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_too_small_for_fp16_stays_in_the_mask(sparse, tmp_path):
    weight = bert.matrices(sparse.model)[0].linear.weight.data
    where = (weight != 0).nonzero()[0].tolist()
    height, width = (8 * (side // 8) for side in where)
    weight[height : height + 8, width : width + 8] = -1e-12  # a whole block
    read = checkpoint.load(saving.save_packed(sparse, tmp_path / "half", "fp16"))
    assert bert.matrices(read.model)[0].linear.weight[*where] == -(2.0**-24)
    for one, other in zip(bert.matrices(sparse.model), bert.matrices(read.model), strict=True):
        assert torch.equal(one.linear.weight != 0, other.linear.weight != 0)
    assert sparsity.summary(read).linear_density_percent == sparsity.summary(sparse).linear_density_percent


def test_export_loads_in_plain_transformers_with_equal_logits(sparse, tmp_path):
    folder = saving.save_transformers(sparse, tmp_path / "plain")
    plain, report = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(logits(plain.eval()), logits(sparse.model))
    again = checkpoint.load(folder)
    assert again.format == "transformers" and same_weights(again, sparse)
    assert "pruned_heads" not in read_json(folder / "config.json")


def test_a_checkpoint_of_2021_is_the_dense_model_it_was_cut_from(sparse, cut_folder):
    loaded = checkpoint.load(cut_folder)
    assert loaded.format == "2021" and loaded.pruned_heads == CUT
    assert same_weights(loaded, sparse)  # the fixture zeroed the heads in `sparse` before it cut them out
    assert torch.equal(logits(loaded.model), logits(sparse.model))


@pytest.mark.parametrize(
    "heads, message",
    [
        ({"0": [1, 2], "1": [0]}, "leaves layer 1 3 heads of 16, which does not fit .*query.weight of shape"),
        ({"0": [1], "1": [0, 1, 2, 3]}, "leaves layer 0 3 heads of 16, which does not fit .*query.weight of shape"),
        ({"7": [0]}, "names layer '7', but there are 2 layers"),
        ({"0": [4]}, r"of layer 0 is \[4\], expected numbers from 0 to 3"),
        ({"0": "all"}, "of layer 0 is 'all'"),
        ([0], "pruned_heads is list"),
    ],
)
def test_pruned_heads_that_do_not_fit(cut_folder, heads, message):
    write_json(cut_folder / "config.json", read_json(cut_folder / "config.json") | {"pruned_heads": heads})
    with pytest.raises(InputError, match=f"config.json: .*{message}"):
        checkpoint.load(cut_folder)


def test_pruned_heads_of_full_size_weights(dense_folder, tmp_path):
    folder = tmp_path / "full"
    shutil.copytree(dense_folder, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"pruned_heads": {"1": [2]}})
    message = "config.json: pruned_heads lists heads of layer 1 .* has all 4: it is at full size; remove pruned_heads"
    with pytest.raises(InputError, match=message):
        checkpoint.load(folder)


def test_no_weight_is_made_up(dense_folder, tmp_path):
    state = safetensors.torch.load_file(dense_folder / "model.safetensors")
    shutil.copy(dense_folder / "config.json", tmp_path)

    def refused(**changed):
        new = {k: v for k, v in (state | changed).items() if v is not None}
        safetensors.torch.save_file(new, tmp_path / "model.safetensors")
        with pytest.raises(InputError) as error:
            checkpoint.load(tmp_path)
        assert str(tmp_path / "model.safetensors") in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    assert "missing: qa_outputs.bias" in refused(**{"qa_outputs.bias": None})
    assert "unexpected: extra" in refused(extra=torch.zeros(1))
    assert "mismatched: qa_outputs.bias is 3, expected 2" in refused(**{"qa_outputs.bias": torch.zeros(3)})
    for value in (torch.nan, 1e300):
        bias = torch.tensor([0, value], dtype=torch.float64)
        assert "not finite in float32: qa_outputs.bias" in refused(**{"qa_outputs.bias": bias})
    assert "not floating point: qa_outputs.bias is torch.int8" in refused(**{"qa_outputs.bias": torch.ones(2).char()})


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"model_type": "albert"},
            "not supported: model_type 'albert'; supported: 'bert', 'roberta', 'distilbert', 'mpnet'",
        ),
        ({"model_type": "distilbert", "architectures": None}, "not supported: .*; a distilbert has no such setting"),
        (
            {"model_type": "roberta", "architectures": None},
            r"unexpected: \(no name of a roberta\) bert.embeddings.",
        ),
        ({"is_decoder": True}, "not supported: is_decoder True; supported: false"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000, expected at least 1 and at most 65,536"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0, expected more than 0"),
        ({"hidden_act": "swoosh"}, "not supported: hidden_act 'swoosh'; supported: gelu, "),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected at least 1"),
        ({"vocab_size": -1}, "vocab_size is -1, expected at least 1"),
        ({"pad_token_id": 9999}, "pad_token_id is 9999, expected at least 0 and less than vocab_size"),
        ({"block_size": [16, 16]}, r"blocks of \(8, 8\), but config.json says block_size \(16, 16\)"),
        ({"block_size": [0, 8]}, r"block_size is \[0, 8\]"),
        ({"block_size": [7, 8]}, r"block_size \[7, 8\] does not divide hidden_size 64"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention"),
        ({"hidden_size": "wide"}, "config.json: "),
        ({"num_hidden_layers": 3}, "missing: bert.encoder.layer.2"),
        ({"num_hidden_layers": 100}, "missing: bert.encoder.layer.10"),
        ({"intermediate_size": 1_000_000}, "intermediate_size is 1,000,000, expected at most 512 with these weights"),
        ({"hidden_size": 65_536}, "hidden_size is 65,536, expected at most 128 with these weights"),
        ({"vocab_size": 10_000_000}, r"word_embeddings.weight is \d+x64, expected 10000000x64"),
        ({"max_position_embeddings": 1_000_000}, "position_embeddings.weight is 512x64, expected 1000000x64"),
        ({"type_vocab_size": 65_536}, "token_type_embeddings.weight is 2x64, expected 65536x64"),
    ],
)
def test_bad_settings(edited, settings, message):
    with pytest.raises(InputError, match=message):
        checkpoint.load(edited(**settings))


def test_a_model_larger_than_memory_is_refused(edited, monkeypatch):
    monkeypatch.setattr(restore.machine, "memory_limit", lambda: 100_000)
    with pytest.raises(InputError, match=r"config.json: at full size the matrices take 0 GB, more than the memory of"):
        checkpoint.load(edited())


class Evil:
    """Unpickled, it would make a folder named `made` in the working directory."""

    def __reduce__(self):
        return os.mkdir, ("made",)


def zipped(value):
    torch.save(value, buffer := io.BytesIO())
    return buffer.getvalue()


def old(value):
    torch.save(value, buffer := io.BytesIO(), _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def header(tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


NEVER_RUN = "damaged, or not a weight file (only plain tensors are read; code in a pickle is never run): "
PLAIN = "expected a dictionary of names and plain tensors"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("pytorch_model.bin", zipped({"w": Evil()}), f"{NEVER_RUN}Trying to load unsupported GLOBAL"),
        ("pytorch_model.bin", old({"w": Evil()}), f"{NEVER_RUN}Trying to load unsupported GLOBAL"),
        (
            "pytorch_model.bin",
            pickle.dumps({"w": Evil()}, 2),
            f"{NEVER_RUN}Trying to load unsupported",
        ),
        ("pytorch_model.bin", b"<html>", f"{NEVER_RUN}Unsupported operand 60"),
        *[("pytorch_model.bin", old({"w": torch.zeros(5000)})[:n], NEVER_RUN) for n in (1, 20, 150, 300, 9000)],
        *[("pytorch_model.bin", zipped({"w": torch.zeros(5000)})[:n], NEVER_RUN) for n in (1, 100, 9000, -1)],
        ("pytorch_model.bin", zipped([torch.zeros(2)]), PLAIN),
        ("pytorch_model.bin", zipped({"weights": {"w": torch.zeros(2)}}), PLAIN),
        ("pytorch_model.bin", zipped({"model": {"w": torch.zeros(2)}}), "unexpected: w"),
        ("pytorch_model.bin", zipped({1: torch.zeros(2)}), PLAIN),
        ("pytorch_model.bin", zipped({"w": torch.zeros(2, 2).to_sparse()}), PLAIN),
        ("pytorch_model.bin", zipped({"w": torch.zeros(2, device="meta")}), PLAIN),
        ("pytorch_model.bin", zipped({"w": torch.zeros(1).expand(10**12)}), "unexpected: w"),
        ("model.safetensors", struct.pack("<Q", 10**15), "damaged, or not a weight file: "),
        ("model.safetensors", struct.pack("<Q", 4) + b"abcd", "damaged, or not a weight file: "),
        ("model.safetensors", header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**9]}}), "damaged, "),
        ("model.safetensors", header({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}), "damaged, "),
        ("model.safetensors", header({"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}), "damaged, "),
        ("model.safetensors", header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "unexpected: w"),
    ],
)
def test_weight_files_that_are_not(dense_folder, tmp_path, monkeypatch, capsys, name, content, message):
    shutil.copy(dense_folder / "config.json", tmp_path)
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qalib", "export", "--model", str(tmp_path), "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    output = capsys.readouterr()
    assert ended.value.code == 2 and output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith(f"qalib: {tmp_path / name}: ") and message in output.err
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", name}


def test_code_that_a_config_names_is_left_alone(edited):
    folder = edited(_attn_implementation="org/kernel", attn_implementation="org/kernel", auto_map={"AutoModel": "a.B"})
    assert checkpoint.load(folder).model.config._attn_implementation == "sdpa"


def test_a_loaded_model_is_all_there(sparse):
    assert all(p.requires_grad and p.dtype == torch.float32 for p in sparse.model.parameters())
    assert not any(tensor.is_meta for tensor in [*sparse.model.parameters(), *sparse.model.buffers()])
    assert sparse.model.bert.embeddings.position_ids.tolist() == [list(range(512))]


def test_a_tokenizer_of_another_model(packed_folder, tmp_path):
    shutil.copytree(packed_folder, tmp_path / "m")
    vocabulary = read_json(tmp_path / "m" / "tokenizer.json")
    words = vocabulary["model"]["vocab"]
    words |= {"more": len(words)}
    write_json(tmp_path / "m" / "tokenizer.json", vocabulary)
    with pytest.raises(InputError, match=f"m: the tokenizer has {len(words)} tokens, the model knows {len(words) - 1}"):
        checkpoint.load(tmp_path / "m").tokenizer  # noqa: B018


@pytest.mark.parametrize("name", ["model.safetensors", formats.PACKED])
@pytest.mark.parametrize("length", [0, 7, 3000])
def test_truncated_files(dense_folder, packed_folder, tmp_path, name, length):
    shutil.copy((packed_folder if name == formats.PACKED else dense_folder) / name, tmp_path)
    shutil.copy(dense_folder / "config.json", tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:length])
    with pytest.raises(InputError, match=f"{name}: damaged, or not a weight file"):
        checkpoint.load(tmp_path)


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="no/such@v1: no such folder, and the hub cannot be reached"):
        checkpoint.load("no/such@v1")
    with pytest.raises(InputError, match="./nowhere: no such folder"):
        checkpoint.load("./nowhere")
    with pytest.raises(InputError, match="config.json: no such file"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(InputError, match=r"config.json: not JSON \(line 1"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="no weights there"):
        checkpoint.load(tmp_path)


def test_nothing_is_overwritten(sparse, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        saving.save_packed(sparse, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_the_bundled_model_says_where_it_comes_from():
    bundled = checkpoint.load("bundled")
    assert bundled.format == "packed" and bundled.block == (32, 32)
    unknown = [name for name, value in vars(description.training_record(bundled)).items() if value is None]
    assert unknown == ["twin_of", "twin_structure"]  # it is no twin
    assert (bundled.folder / "NOTICE").exists()


def test_a_copy_shares_the_tokenizer_but_not_the_weights():
    loaded = checkpoint.load("bundled")
    made, whole = loaded.copy(), loaded.model.qa_outputs.weight.clone()
    known, copied = loaded.tokenizer, loaded.copy()
    assert copied.tokenizer is known
    for changed in (made, copied):
        changed.model.qa_outputs.weight.data.zero_()
    assert torch.equal(loaded.model.qa_outputs.weight, whole)


def test_a_checkpoint_shows_itself_in_three_lines():
    loaded = checkpoint.load("bundled")
    assert len(repr(loaded).splitlines()) == 3 and "31.3% of the encoder's weights" in repr(loaded)
    assert loaded._repr_html_().startswith("<div><b>Checkpoint minilm-l6-squad-block-sparse (packed)</b><br>BERT")
