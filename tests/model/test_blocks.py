import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qalib.model import blocks


def test_by_hand():
    weight = torch.tensor([[1.0, 2, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4]])
    assert blocks.mask(weight, (2, 2)).tolist() == [[True, False], [False, True]]
    assert blocks.split(weight, (2, 2))[1, 1].tolist() == [[0, 0], [0, 4]]
    values, bitmap = blocks.pack(weight, (2, 2))
    assert values.tolist() == [[[1, 2], [0, 3]], [[0, 0], [0, 4]]]
    assert bitmap.tolist() == [0b10010000]


def test_expand_covers_whole_blocks():
    kept = torch.tensor([[True, False]])
    assert blocks.expand(kept, (2, 3)).tolist() == [[True] * 3 + [False] * 3] * 2


@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.integers(0, 9999)
)
def test_pack_and_back(rows, columns, height, width, density, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows * height, columns * width, generator=generator)
    weight *= blocks.expand(torch.rand(rows, columns, generator=generator) < density, (height, width))
    values, bitmap = blocks.pack(weight, (height, width))
    assert len(values) == blocks.mask(weight, (height, width)).sum()
    assert torch.equal(blocks.unpack(values, bitmap, tuple(weight.shape)), weight)
    assert torch.equal(blocks.join(blocks.split(weight, (height, width))), weight)


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.integers(0, 9999)
)
def test_lines_of_zeros_and_back(rows, columns, height, width, density, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows * height, columns * width, generator=generator)
    weight *= torch.rand(weight.shape[0], 1, generator=generator) < density
    weight *= torch.rand(1, weight.shape[1], generator=generator) < density
    small, left, across = blocks.remove_zero_lines(weight, (height, width))
    assert torch.equal(left, (weight != 0).any(1)) and torch.equal(across, (weight != 0).any(0))
    assert small.shape == (-(-int(left.sum()) // height) * height, -(-int(across.sum()) // width) * width)
    assert torch.equal(blocks.insert_zero_lines(small, left, across), weight)


def test_a_block_must_divide():
    with pytest.raises(ValueError, match="a 4x6 weight cannot be cut into 4x4 blocks"):
        blocks.split(torch.zeros(4, 6), (4, 4))


def test_unpack_refuses_what_does_not_fit():
    values, bitmap = blocks.pack(torch.ones(4, 4), (2, 2))
    with pytest.raises(ValueError, match="bitmap marks 4 blocks, but 3 are stored"):
        blocks.unpack(values[:3], bitmap, (4, 4))
    with pytest.raises(ValueError, match="1 bytes does not describe 16 blocks"):
        blocks.unpack(values, bitmap, (8, 8))
