"""The definitions of `sparsity.Summary`, each computed again from a file's tensors, for every kind of pruned BERT."""

import struct

import pytest
import torch
from family import ATTENTION, FFN, KINDS
from torch.nn import functional

from qalib import sparsity
from qalib.model import checkpoint, saving

LENGTH, SIZE = 384, {"large": 64}  # tokens of a window; rows of a head, 16 but for the large one


def blocks_kept(weight, block):
    """Blocks with a nonzero weight; the weight is padded to whole blocks."""
    padded = functional.pad(weight, (0, -weight.shape[1] % block[1], 0, -weight.shape[0] % block[0]))
    return int((functional.max_pool2d((padded[None] != 0).float(), block, block) > 0).sum())


def with_all_heads(made, size):
    """The layers with zeros where heads were cut out."""
    for number, layer in enumerate(made.weights["layers"]):
        left = [h for h in range(made.config["num_attention_heads"]) if h not in made.pruned_heads.get(number, [])]
        rows = torch.tensor([h * size + i for h in left for i in range(size)]).long()
        for kind in ATTENTION:
            weight, across = layer[kind][0], int(kind == "attention output")
            shape = [made.config["hidden_size"] if side == across else length
                     for side, length in enumerate(weight.shape)]  # fmt: skip
            layer[kind] = (torch.zeros(shape).index_copy_(across, rows, weight), layer[kind][1])
    return made.weights["layers"]


def alive(layer, size):
    """Which heads of the file, and which neurons, change the output."""
    value, output = layer["value"][0].unflatten(0, (-1, size)), layer["attention output"][0].unflatten(1, (-1, size))
    heads = (value != 0).flatten(1).any(1) & (output != 0).any(2).any(0)
    return heads, (layer["FFN in"][0] != 0).any(1) & (layer["FFN out"][0] != 0).any(0)


def multiplied(layer, block, size):
    """Multiply-adds per token with the kept blocks, without the heads and neurons that can go."""
    heads, neurons = alive(layer, size)
    rows, everything = heads.repeat_interleave(size), torch.ones(len(layer["FFN out"][0]), dtype=torch.bool)
    left = dict.fromkeys(("query", "key", "value"), (rows, everything))
    left |= {
        "attention output": (everything, rows),
        "FFN in": (neurons, everything),
        "FFN out": (everything, neurons),
    }
    total = 0
    for kind, (out, into) in left.items():
        weight = layer[kind][0]
        padded = functional.pad(weight, (0, -weight.shape[1] % block[1], 0, -weight.shape[0] % block[0])) != 0
        kept = functional.max_pool2d(padded[None].float(), block, block)[0]
        kept = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: len(out), : len(into)] > 0
        total += int((kept & out[:, None] & into).sum())
    return total


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "smaller heads"])  # whose queries are scaled
def test_each_number_is_what_its_definition_says(kind, tmp_path):
    made = KINDS[kind]()
    loaded, size = checkpoint.load(made.write(tmp_path / "made")), SIZE.get(kind, 16)
    summary, layers, config = sparsity.summary(loaded), with_all_heads(made, size), made.config
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    width, count = made.weights["words"].shape[1], config["num_hidden_layers"]
    matrices = [layer[name][0] for layer in layers for name in (*ATTENTION, *FFN)]
    nonzero = sum(int((weight != 0).sum()) for weight in matrices)
    total, kept = made.unpruned + made.others, nonzero + made.others - made.narrowed
    blocks = count * (4 * hidden * width + 2 * inner * width) // (loaded.block[0] * loaded.block[1])
    in_blocks = sum(blocks_kept(weight, loaded.block) for weight in matrices)
    called = heads * count - sum(
        int(torch.stack([layer[name][0].unflatten(0, (-1, size)).ne(0).flatten(1).any(1)
                         for name in ("query", "key", "value")]).all(0).sum()) for layer in layers
    )  # fmt: skip
    going = [alive(layer, size) for layer in layers]
    embeddings = sum(made.weights[name].numel() for name in ("words", "places", "types") if name in made.weights)
    dense = LENGTH * (made.unpruned + 2 * LENGTH * hidden * count + 2 * hidden)
    work = sum(multiplied(layer, loaded.block, size) for layer in layers) + 2 * width
    work = LENGTH * (work + sum(2 * LENGTH * size * int(left.sum()) for left, _ in going))
    assert summary.linear_density_percent == pytest.approx(100 * nonzero / made.unpruned)
    assert (summary.blocks, summary.kept_blocks) == (blocks, in_blocks)
    assert summary.block_density_percent == pytest.approx(100 * in_blocks / blocks)
    assert summary.overall_density_percent == pytest.approx(100 * kept / total)
    pooler = hidden * hidden + hidden
    assert summary.overall_density_with_pooler_percent == pytest.approx(100 * (kept + pooler) / (total + pooler))
    assert (summary.heads, summary.heads_called_removed) == (heads * count, called)
    assert summary.heads_left == heads * count - called
    assert summary.heads_called_removed_percent == pytest.approx(100 * called / (heads * count))
    assert summary.heads_removable == heads * count - sum(int(left.sum()) for left, _ in going)
    assert summary.neurons == inner * count
    assert summary.neurons_removable == inner * count - sum(int(left.sum()) for _, left in going)
    assert (summary.parameters, summary.kept_parameters) == (total, kept)
    assert summary.embeddings_percent == pytest.approx(100 * (embeddings + 2 * width) / kept)
    assert summary.file_bytes == (tmp_path / "made" / "model.safetensors").stat().st_size
    assert summary.dense_fp32_bytes == 4 * total
    assert summary.heads_cut_out_fp32_bytes == 4 * (total - called * (4 * hidden * size + 3 * size))
    assert (summary.multiply_adds_dense, summary.multiply_adds_sparse) == (dense, work)
    assert summary.packed_fp16_bytes == stored(saving.save_packed(loaded, tmp_path / "packed"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", saving.PACKED_DTYPES)
def test_a_packed_file_has_the_bytes_stated(kind, dtype, tmp_path):
    loaded = checkpoint.load(KINDS[kind]().write(tmp_path / "made"))
    stated = sparsity.file_sizes(loaded).set_index("form").bytes[f"packed {dtype}"]
    assert stored(saving.save_packed(loaded, tmp_path / "packed", dtype)) == stated


def stored(folder):
    """Bytes of the tensors in a packed file, without its header."""
    data = (folder / "model.packed.safetensors").read_bytes()
    return len(data) - 8 - struct.unpack("<Q", data[:8])[0]
