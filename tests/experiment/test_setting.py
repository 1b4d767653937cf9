"""Settings are read as they are written, and what cannot be used is refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.experiment.setting import BITS, FULL_PRECISION, Setting

bits = st.sampled_from(BITS)
groups = st.none() | st.integers(1, 1 << 20)


@given(bits, bits, bits, bits, groups)
def test_text_reads_back(weights, activations, keys, values, group):
    setting = Setting(weights, activations, keys, values, group if weights < 16 else None)
    assert Setting.parse(str(setting)) == setting


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("W2A16", "W2A16K16V16"),
        ("W3A16g128", "W3A16K16V16g128"),
        ("W4A16KV4g32", "W4A16K4V4g32"),
        ("W4A4K4V4g64", "W4A4K4V4g64"),
        ("W4A4K4V4g064", "W4A4K4V4g64"),
    ],
)
def test_weights_alone_and_groups_have_short_forms(short, long):
    assert str(Setting.parse(short)) == long
    assert Setting.parse(short) == Setting.parse(long)


def test_a_group_is_part_of_a_setting():
    assert Setting.parse("W2A16g64") == Setting(2, 16, 16, 16, group=64)
    assert Setting.parse("W2A16g64") != Setting.parse("W2A16")


@pytest.mark.parametrize("text", ["W2A16g0", "W4A4K4V4g0"])
def test_a_group_of_nothing_is_refused(text):
    with pytest.raises(ValueError, match=f"{text[:2]}.*g0: a group of 0 channels cannot be used; give 1 or more"):
        Setting.parse(text)


def test_groups_of_weights_that_are_not_quantized_are_refused():
    with pytest.raises(ValueError, match="W16A4K4V4g64: weights of 16 bits have no scales; leave out the group"):
        Setting.parse("W16A4K4V4g64")


def test_average_bits_count_the_scales_of_groups():
    assert Setting.parse("W2A16g64").average_bits == 2.25
    assert Setting.parse("W3A16").average_bits == 3


def test_each_width_has_its_place():
    assert Setting.parse("W2A3K4V8") == Setting(weights=2, activations=3, keys=4, values=8)
    assert Setting.parse("W2A3K4V8") != Setting.parse("W3A2K4V8")


def test_one_width_for_the_cache():
    assert str(Setting.parse("W4A4KV4")) == "W4A4K4V4"


def test_full_precision():
    assert str(FULL_PRECISION) == "W16A16K16V16"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "W4",
        "W4A4",
        "W4A4K4",
        "W4A116",
        "W4A4g64",
        "W4A16g",
        "W4A16g-1",
        "W4A16 g64",
        "W4A16G64",
        "W4A16K16g64",
        "w4a4k4v4",
        "W4A4K4V4 ",
        "W-4A4K4V4",
        "W4.5A4K4V4",
    ],
)
def test_another_form_is_refused(text):
    with pytest.raises(ValueError, match="not of the form W4A4K4V4"):
        Setting.parse(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [("W0A4K4V4", "weights"), ("W4A17K4V4", "activations"), ("W4A4K1V4", "keys"), ("W4A4K4V9", "values")],
)
def test_other_widths_are_refused(text, part):
    with pytest.raises(ValueError, match=f"bits for {part} cannot be used; give one of 2, 3"):
        Setting.parse(text)
