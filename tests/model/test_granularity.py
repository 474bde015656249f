import family
import pytest
import torch

from qalib import sparsity
from qalib.model import checkpoint, granularity
from qalib.model.granularity import detect


def pruned(mask):
    """A weight without zeros, but for those of a mask."""
    return mask * (1 + torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)))


def drawn(rows, columns, share=0.5, seed=1):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("height, width", [(32, 32), (4, 4), (16, 16), (64, 32), (1, 8), (2, 3), (6, 1), (3, 32)])
def test_blocks(height, width):
    mask = drawn(192 // height, 96 // width).repeat_interleave(height, 0).repeat_interleave(width, 1)
    assert str(detect([pruned(mask)])) == f"blocks of {height}x{width}"


def test_rows_columns_both_and_single_weights():
    rows, columns = drawn(96, 1), drawn(1, 96, seed=2)
    assert str(detect([pruned(rows.expand(96, 48))])) == "whole rows"
    assert str(detect([pruned(columns.expand(48, 96))])) == "whole columns"
    assert str(detect([pruned(rows & columns)])) == "whole rows and columns"
    assert str(detect([pruned(drawn(96, 96))])) == "single weights"
    assert str(detect([pruned(drawn(6, 1).repeat_interleave(16, 0).expand(96, 48))])) == "whole rows, 16 at a time"
    assert str(detect([torch.ones(8, 8)])) == "nothing pruned"
    assert str(detect([torch.zeros(8, 8), torch.ones(8, 8)])) == "whole matrices"


def test_a_few_zeros_of_rounding_do_not_hide_the_blocks():
    weight = pruned(drawn(24, 24).repeat_interleave(32, 0).repeat_interleave(32, 1))
    anywhere = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(3))
    weight.view(-1)[anywhere[:5]] = 0
    assert str(detect([weight])) == "blocks of 32x32"
    weight.view(-1)[anywhere[:500]] = 0
    assert str(detect([weight])) == "single weights"


def test_the_finest_of_all_layers_counts():
    coarse, fine = (drawn(64 // n, 64 // n).repeat_interleave(n, 0).repeat_interleave(n, 1) for n in (16, 4))
    assert str(detect([pruned(coarse), pruned(fine)])) == "blocks of 4x4"
    assert str(detect([pruned(coarse), torch.ones(64, 64), torch.zeros(64, 64)])) == "blocks of 16x16"


EXPECTED = {
    "full block": "blocks of 8x8",
    "hybrid": "query, key, value, attention output: blocks of 8x8; FFN in: whole rows; FFN out: whole columns",
    "hybrid-filled": "query, key, value: whole rows, 16 at a time; attention output: whole columns, 16 at a time; "
    "FFN in: whole rows; FFN out: whole columns",
    "scattered": "single weights",
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_of_made_models(kind, tmp_path):
    loaded = checkpoint.load(family.KINDS[kind]().write(tmp_path / "made"))
    found = sparsity.summary(loaded)
    assert found.granularity == EXPECTED[kind]
    blocky = kind == "full block"
    assert (found.block_density_percent == pytest.approx(found.linear_density_percent)) == blocky
    assert (found.block_misfits is None) == blocky
    if kind == "scattered":
        assert found.block_density_percent == 100 and 50 < found.linear_density_percent < 52
        assert found.overall_density_percent < 57


def test_a_dense_model_has_no_unit():
    dense = dict.fromkeys(family.FFN, granularity.Granularity(granularity.NONE))
    assert granularity.describe(dense) == "nothing pruned"


def test_the_block_size_of_a_config_is_a_claim(tmp_path):
    made = family.prune_blocks(family.dense(block_size=[16, 16]), (*family.ATTENTION, *family.FFN), (4, 4))
    loaded = checkpoint.load(made.write(tmp_path / "made"))
    assert granularity.describe(granularity.detect_by_kind(loaded.model)) == "blocks of 4x4"
    assert sparsity.summary(loaded).block_misfits == ", ".join([*family.ATTENTION, *family.FFN])
    loaded.block = (2, 4)
    assert sparsity.summary(loaded).block_misfits is None
