"""Splitting rows into groups of channels, whose last one may be short."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from altq.quantizers.groups import join_groups, moments_of_groups, num_groups, split_groups, spread_groups


@given(width=st.integers(1, 40), group=st.integers(1, 40), rows=st.integers(1, 3))
def test_each_channel_lies_in_its_group_and_comes_back(width, group, rows):
    x = torch.arange(1.0, 1 + rows * width).view(rows, width)
    parts = split_groups(x, group)
    assert parts.shape == (rows, num_groups(width, group), group)
    for index, expected in enumerate(x.split(group, dim=1)):
        short = expected.shape[1]
        assert torch.equal(parts[:, index, :short], expected)
        assert not parts[:, index, short:].any()
    assert torch.equal(join_groups(parts, width, group), x)
    values = torch.arange(num_groups(width, group)).repeat(rows, 1)
    assert spread_groups(values, width, group).tolist() == rows * [[channel // group for channel in range(width)]]


def test_without_groups_a_row_stays_whole():
    x = torch.ones(2, 5)
    assert num_groups(5, None) == 1
    assert split_groups(x, None) is x and join_groups(x, 5, None) is x and spread_groups(x, 5, None) is x
    assert moments_of_groups(x, None) is x


@pytest.mark.parametrize("width", [6, 7, 3, 2])
def test_moments_of_groups_are_the_blocks_on_the_diagonal(width):
    moment = torch.arange(float(width**2)).view(width, width)
    blocks = moments_of_groups(moment, 3)
    for index, channels in enumerate(torch.arange(width).split(3)):
        short = len(channels)
        assert torch.equal(blocks[index, :short, :short], moment[channels][:, channels])
        assert not blocks[index, short:].any() and not blocks[index, :, short:].any()
