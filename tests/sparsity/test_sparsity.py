import pytest
import torch

from qalib import sparsity
from qalib.model import bert, blocks, checkpoint, saving


@pytest.fixture
def by_hand(sparse):
    """All matrices zero but for 3 of the 64 blocks of layer 0's query and 2 of the 128 of its FFN in."""
    for matrix in bert.matrices(sparse.model):
        matrix.linear.weight.data.zero_()
    query, _, _, _, ffn_in, _ = (m.linear.weight.data for m in bert.matrices(sparse.model)[:6])
    query[0, 0], query[20, 30], query[63, 63] = 1, 1, 1
    ffn_in[0, :16] = 1
    return sparse


def test_matrices_by_hand(by_hand):
    table = sparsity.per_matrix(by_hand).set_index(["layer", "kind"])
    query, ffn_in = table.loc[0, "query"], table.loc[0, "FFN in"]
    assert (query.blocks, query.kept_blocks, query.block_density) == (64, 3, 3 / 64)
    assert (query.weights, query.kept_weights, query.density) == (4096, 3, 3 / 4096)
    assert (query.empty_rows, query.empty_columns) == (61, 61)
    assert (ffn_in.blocks, ffn_in.kept_blocks, ffn_in.empty_rows, ffn_in.empty_columns) == (128, 2, 127, 48)
    layers = sparsity.grouped(sparsity.per_matrix(by_hand), "layer").set_index("layer")
    assert layers.loc[0, "block_density"] == 5 / 512 and layers.loc[1, "kept_blocks"] == 0
    assert layers.loc[0, "density"] == 19 / 32768


def test_summary_by_hand(by_hand):
    summary = sparsity.summary(by_hand)
    others = sum(p.numel() for p in by_hand.model.parameters()) - 2 * 64 * 512
    assert summary.block_density_percent == pytest.approx(100 * 5 / 1024)
    assert summary.linear_density_percent == pytest.approx(100 * 19 / 65536)
    assert summary.kept_parameters == others + 19 and summary.parameters == others + 65536
    assert summary.overall_density_percent == pytest.approx(100 * (others + 19) / (others + 65536))
    pooler = 64 * 64 + 64
    assert summary.overall_density_with_pooler_percent == pytest.approx(
        100 * (others + 19 + pooler) / (others + 65536 + pooler)
    )
    # Nobody has values any more: every head is removed under either rule, and no neuron is read.
    assert summary.heads_called_removed == summary.heads_removable == 8 and summary.neurons_removable == 256


def test_parts_add_up(sparse):
    table = sparsity.parameters(sparse)
    assert table.parameters.sum() == sum(p.numel() for p in sparse.model.parameters())
    assert table.share.sum() == pytest.approx(1) and table.kept_share.sum() == pytest.approx(1)
    vocabulary = sparse.model.config.vocab_size
    assert table.set_index("part").parameters["word embeddings"] == vocabulary * 64
    assert table.set_index("part").parameters["other embeddings"] == (512 + 2 + 2) * 64


def test_packed_bytes_are_those_of_the_file(sparse, tmp_path):
    sizes = sparsity.file_sizes(sparse).set_index("form").bytes
    for dtype in ("fp16", "fp32"):
        packed = checkpoint.load(saving.save_packed(sparse, tmp_path / dtype, dtype))
        header = 8 + int.from_bytes(packed.weight_file.read_bytes()[:8], "little")
        assert sizes[f"packed {dtype}"] == packed.file_bytes - header
    dense = checkpoint.load(saving.save_transformers(sparse, tmp_path / "dense"))
    header = 8 + int.from_bytes(dense.weight_file.read_bytes()[:8], "little")
    assert sizes["dense fp32"] == dense.file_bytes - header
    removed = int(sparsity.heads(sparse).called_removed.sum())
    assert sizes["heads cut out fp32"] == sizes["dense fp32"] - 4 * removed * (4 * 64 * 16 + 3 * 16)


def test_multiply_adds(sparse):
    length = 100
    table = sparsity.multiply_adds(sparse, length).set_index("part")
    assert table.loc["encoder matrices", "dense"] == 2 * (4 * 64 * 64 + 2 * 64 * 128) * length
    assert table.loc["attention products", "dense"] == 2 * 2 * length * length * 64
    assert table.loc["attention products", "compact"] == 2 * length * length * 16 * 7  # 7 of 8 heads stay
    assert (table["sparse"] <= table.compact).all() and (table.compact <= table.dense).all()
    sparse.model.bert.encoder.layer[0].attention.self.value.weight.data[16:32] = 1
    kept = sum(int(blocks.mask(m.linear.weight, (8, 8)).sum()) for m in bert.matrices(sparse.model)) * 64
    assert table.loc["encoder matrices", "sparse"] < kept * length


def test_heads_that_are_cut_out_of_the_file_are_said(sparse):
    sparse.pruned_heads = {1: [2]}
    table = sparsity.heads(sparse).set_index(["layer", "head"])
    assert table.cut_out.sum() == 1 and table.cut_out[1, 2]
    assert table.called_removed[0, 1] and table.removable[0, 1]
    assert table.called_removed[1, 0] and not table.removable[1, 0]


def test_patterns(sparse):
    masks, shares = sparsity.block_masks(sparse), sparsity.block_fill(sparse)
    assert all(torch.equal(shares[key], mask.float()) for key, mask in masks.items())
    assert len(masks) == 12 and masks[0, "FFN in"].shape == (16, 8)
    assert torch.equal(masks[1, "value"], blocks.mask(bert.layers(sparse.model)[1].attention.self.value.weight, (8, 8)))
