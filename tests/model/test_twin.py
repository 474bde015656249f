import json
import random

import pytest
import torch
from transformers import BertConfig

from qalib import sparsity
from qalib.model import bert, blocks, checkpoint, structure, synthetic
from qalib.utils.errors import InputError

SMALL = BertConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
LIKE = [dict.fromkeys(bert.LINEAR_LAYERS, 3), dict.fromkeys(bert.LINEAR_LAYERS, 6)]


def test_place_keeps_the_density_outside_the_heads_that_are_gone():
    kept = structure.place_blocks(LIKE, {0: [1, 2]}, 0.3, (8, 8), SMALL, torch.Generator().manual_seed(0))
    assert sum(int(mask.sum()) for mask in kept.values()) == round(0.3 * 2 * 512)
    for kind in ("query", "key", "value"):
        alive = bert.split_heads(kept[0, kind], 4).flatten(1).any(1)
        assert alive.tolist() == [True, False, False, True]
    assert not kept[0, "attention output"][:, 2:6].any()
    assert kept[1, "query"].sum() > kept[0, "query"].sum()


def test_what_the_heads_left_cannot_hold_is_refused():
    for density in (1.0, -0.1):
        with pytest.raises(InputError, match=f"density {density}: must be between 0 and 0.8750"):
            structure.place_blocks(LIKE, {0: [1, 2]}, density, (8, 8), SMALL, torch.Generator())


def test_the_twin_of_the_published_model(tmp_path):
    loaded = checkpoint.load(synthetic.make_twin(tmp_path / "twin"))
    found = sparsity.summary(loaded)
    assert loaded.format == "2021" and loaded.weight_file.name == "pytorch_model.bin"
    assert round(found.linear_density_percent, 1) == 31.7
    assert (
        round(found.overall_density_percent, 1) == 46.7 and round(found.overall_density_with_pooler_percent, 1) == 47.0
    )
    removed = sparsity.heads(loaded).groupby("layer").called_removed.sum().tolist()
    assert removed == [8, 8, 7, 5, 5, 7, 6, 5, 7, 7, 7, 8] and found.heads == 144
    assert found.file_bytes == pytest.approx(372_596_744, rel=1e-3)
    with torch.inference_mode():
        assert loaded.model(torch.arange(1, 9)[None]).start_logits.isfinite().all()


def test_the_twins_of_the_hybrid_filled_models(tmp_path):
    loaded = checkpoint.load(synthetic.make_twin(tmp_path / "0.26", "hybrid-filled-0.26"))
    found, removed = sparsity.summary(loaded), sparsity.heads(loaded).groupby("layer").called_removed.sum()
    assert round(found.linear_density_percent, 2) == 26.20 and found.heads_called_removed == 80
    assert round(found.overall_density_percent, 1) == 42.4  # as nn_pruning's results have it
    assert removed.tolist() == [8, 8, 6, 5, 5, 7, 6, 5, 7, 7, 7, 9]
    left = 3072 - sparsity.neurons(loaded).removable
    assert left.tolist() == [552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238]
    assert found.granularity == (
        "query, key, value: whole rows, 64 at a time; attention output: whole columns, 64 at a time; "
        "FFN in: whole rows; FFN out: whole columns"
    )
    assert found.file_bytes // 2**20 == 355  # as its card says
    assert loaded.meta["structure"].startswith("heads and FFN neurons of each layer as published; which heads")
    loaded = checkpoint.load(synthetic.make_twin(tmp_path / "0.36", "hybrid-filled-0.36"))
    assert round(100 * sparsity.density(loaded, (1, 1)), 2) == 36.28
    assert sum(map(len, loaded.pruned_heads.values())) == 48
    assert loaded.file_bytes // 2**20 == 379 and "over the layers as in hybrid-filled-0.26" in loaded.meta["structure"]


def test_the_density_of_whole_heads_and_neurons():
    left = structure.neurons_for_density(0.5, [4, 1], [10, 30], SMALL)
    kept, gone = structure.heads_and_neurons([4, 1], left, SMALL, torch.Generator().manual_seed(0))
    total = sum(mask.numel() for mask in kept.values())
    assert sum(int(mask.sum()) for mask in kept.values()) / total == pytest.approx(0.5, abs=2 * 64 / total)
    assert left[1] == pytest.approx(3 * left[0], abs=3) and len(gone[1]) == 3 and 0 not in gone
    for density in (0.1, 0.9):
        with pytest.raises(InputError, match=f"density {density}: must be between 0.3125 and 0.8125"):
            structure.neurons_for_density(density, [4, 1], [10, 30], SMALL)


def test_the_sibling_from_its_masks(shared, tmp_path):
    loaded = checkpoint.load(synthetic.make_twin(tmp_path / "twin", masks=shared / "reference" / "masks_0.20.json"))
    found = sparsity.summary(loaded)
    assert round(found.linear_density_percent, 2) == 20.17 and found.heads_called_removed == 90
    assert round(found.overall_density_with_pooler_percent, 2) == 38.07 and found.file_bytes // 2**20 == 347
    assert loaded.meta["twin_of"].endswith("0.20-v1") and loaded.meta["structure"].endswith("as in masks_0.20.json")


def test_other_masks_are_taken_exactly(tmp_path):
    draw, sizes = random.Random(0), {"FFN in": (3072, 768), "FFN out": (768, 3072)}
    grids = {}
    for layer in range(12):
        for kind, suffix in bert.LINEAR_LAYERS.items():
            rows, columns = sizes.get(kind, (768, 768))
            grid = ["".join(draw.choices("0001", k=columns // 64)) for _ in range(rows // 16)]
            grids[f"bert.encoder.layer.{layer}.{suffix}.weight"] = grid
    gone = {"7": list(range(12)), "2": [4, 4]}
    path = tmp_path / "masks.json"
    path.write_text(json.dumps({"block_size": [16, 64], "pruned_heads": gone, "kept_blocks": grids}))
    loaded = checkpoint.load(synthetic.make_twin(tmp_path / "twin", masks=path))
    assert loaded.block == (16, 64) and loaded.pruned_heads == {7: list(range(12)), 2: [4]}
    for matrix in bert.matrices(loaded.model):
        kept = torch.tensor([[bit == "1" for bit in row] for row in grids[f"{matrix.name}.weight"]])
        for head in loaded.pruned_heads.get(matrix.layer, []):  # a head is 64 wide: four rows of blocks, one column
            if matrix.kind in ("query", "key", "value"):
                kept[4 * head : 4 * head + 4] = False
            elif matrix.kind == "attention output":
                kept[:, head] = False
        assert torch.equal(blocks.mask(matrix.linear.weight, (16, 64)), kept)
    with torch.inference_mode():
        assert loaded.model(torch.arange(1, 9)[None]).start_logits.isfinite().all()


def test_a_twin_in_other_blocks(tmp_path):
    loaded = checkpoint.load(synthetic.make_twin(tmp_path / "twin", density=0.2, block=(1, 4)))
    assert loaded.block == (1, 4) and sparsity.density(loaded, (1, 4)) == pytest.approx(0.2, abs=1e-4)
    fours = [blocks.split(m.linear.weight, (1, 4)) != 0 for m in bert.matrices(loaded.model)]
    assert all(torch.equal(one.all((-1, -2)), one.any((-1, -2))) for one in fours)
    assert sparsity.density(loaded, (32, 32)) > 0.6  # scattered
    with pytest.raises(InputError, match=r"block_size \[5, 4\] does not divide hidden_size 768"):
        synthetic.make_twin(tmp_path / "other", block=(5, 4))
    with pytest.raises(InputError, match=r"block \(1, 4\): hybrid-filled-0.26 already says which weights are kept"):
        synthetic.make_twin(tmp_path / "other", "hybrid-filled-0.26", block=(1, 4))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kept_blocks": {}}, "kept_blocks of bert.encoder.layer.0.attention.self.query.weight is not 24 rows of 24"),
        ({"kept_blocks": []}, "kept_blocks is list"),
        ({"block_size": [32]}, r"block_size is \[32\]"),
        ({"pruned_heads": {"12": [0]}}, "pruned_heads names layer '12'"),
    ],
)
def test_bad_mask_files(tmp_path, change, message):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps({"block_size": [32, 32], "pruned_heads": {}, "kept_blocks": {}} | change))
    with pytest.raises(InputError, match=f"masks.json: {message}"):
        synthetic.make_twin(tmp_path / "twin", masks=path)
    path.write_text("[]")
    with pytest.raises(InputError, match="masks.json: expected an object with block_size"):
        synthetic.make_twin(tmp_path / "twin", masks=path)
    assert [p.name for p in tmp_path.iterdir()] == ["masks.json"]


def test_unknown_names(tmp_path):
    with pytest.raises(InputError, match="no published model '0.5'; there are 0.32, hybrid-filled-0.26, hybrid-"):
        synthetic.make_twin(tmp_path / "twin", "0.5")
    with pytest.raises(InputError, match="no format 'onnx'; there are 2021, packed, transformers"):
        synthetic.make_twin(tmp_path / "twin", format="onnx")
