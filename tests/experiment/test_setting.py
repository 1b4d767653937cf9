"""Settings are read as they are written, and what cannot be used is refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.experiment.setting import BITS, FULL_PRECISION, Setting

bits = st.sampled_from(BITS)


@given(bits, bits, bits, bits)
def test_text_reads_back(weights, activations, keys, values):
    setting = Setting(weights, activations, keys, values)
    assert Setting.parse(str(setting)) == setting


def test_each_width_has_its_place():
    assert Setting.parse("W2A3K4V8") == Setting(weights=2, activations=3, keys=4, values=8)
    assert Setting.parse("W2A3K4V8") != Setting.parse("W3A2K4V8")


def test_one_width_for_the_cache():
    assert str(Setting.parse("W4A4KV4")) == "W4A4K4V4"


def test_full_precision():
    assert str(FULL_PRECISION) == "W16A16K16V16"


@pytest.mark.parametrize("text", ["", "W4", "W4A4", "W4A4K4", "w4a4k4v4", "W4A4K4V4 ", "W-4A4K4V4", "W4.5A4K4V4"])
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
