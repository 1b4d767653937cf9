"""Which borders are stored follows from the disk that there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.experiment.border_spacing import bytes_of_states, spacing, stored_borders
from altq.experiment.shape import Shape, Sizes

LLAMA3_70B = Sizes(
    Shape(hidden_size=8192, intermediate_size=28672, num_heads=64, num_kv_heads=8, vocab_size=128256), 80, "known"
)


def test_one_stores_every_border():
    assert stored_borders(3, 1) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("every", "expected"), [(2, [0, 4, 8, 10]), (3, [0, 6, 10]), (5, [0, 10]), (4, [0, 8, 10])])
def test_more_stores_borders_of_blocks_and_the_last(every, expected):
    assert stored_borders(5, every) == expected


def test_bytes_by_hand():
    sizes = Sizes(Shape(hidden_size=4, intermediate_size=6, num_heads=2, num_kv_heads=1, vocab_size=9), 2, "made")
    # Sites are 4, 4, 4 and 6 wide; keys and values have one head of 2 channels each.
    moments = 4 * 2 * (3 * 16 + 36 + 2 * 2 * 2) * 2
    state = 4 * 3 * 5 * 4
    assert bytes_of_states(sizes, 3, 5, 1) == 5 * state + moments
    assert bytes_of_states(sizes, 3, 5, 2) == 2 * state + 4 * (4 * 3 * 5 + 5056)


def test_llama3_70b_becomes_a_tenth():
    everything = bytes_of_states(LLAMA3_70B, 128, 2048, 1)
    assert 1.9e12 < everything < 2.1e12
    assert spacing("auto", LLAMA3_70B, 128, 2048, free=21e12) == 1
    every = spacing("auto", LLAMA3_70B, 128, 2048, free=2e12)
    assert bytes_of_states(LLAMA3_70B, 128, 2048, every) < 0.2e12


@given(free=st.floats(1e6, 1e15))
def test_auto_stores_as_many_as_a_tenth_of_the_disk_holds(free):
    every = spacing("auto", LLAMA3_70B, 128, 2048, free=free)
    if every < 80:
        assert bytes_of_states(LLAMA3_70B, 128, 2048, every) <= free / 10
    if every > 1:
        assert bytes_of_states(LLAMA3_70B, 128, 2048, every - 1) > free / 10


def test_what_is_asked_for_is_taken_whatever_the_disk():
    assert spacing(7, LLAMA3_70B, 128, 2048, free=0) == 7 and spacing(1, LLAMA3_70B, 128, 2048, free=0) == 1
    assert spacing(1000, LLAMA3_70B, 128, 2048, free=0) == 80
