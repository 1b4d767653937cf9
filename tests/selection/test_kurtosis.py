import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from altq.selection.kurtosis import Moments, merge_all


def test_hand_computed_kurtosis():
    # -1, 0, 0, 1: mean 0, variance 1/2, fourth moment 1/2, so kurtosis 2 and excess -1
    moments = Moments.of(np.array([-1.0, 0.0, 0.0, 1.0]), "w")
    assert moments.excess_kurtosis("w") == pytest.approx(-1.0, abs=1e-15)
    assert moments.std == pytest.approx(0.5**0.5)
    assert moments.max_abs == 1.0


@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(1, 999), max_size=8),
    offset=st.sampled_from([0.0, 3.0, 1e4]),
)
def test_merging_any_pieces_equals_the_whole(seed, cuts, offset):
    values = np.random.default_rng(seed).standard_t(5, size=1000) + offset
    pieces = np.split(values, sorted(set(cuts)))
    merged = merge_all([Moments.of(piece, "w") for piece in pieces])
    whole = Moments.of(values, "w")
    assert merged.count == whole.count
    assert merged.std == pytest.approx(whole.std, rel=1e-10)
    assert merged.m3 == pytest.approx(whole.m3, rel=1e-8, abs=1e-8 * whole.m2**1.5)
    assert merged.excess_kurtosis("w") == pytest.approx(scipy.stats.kurtosis(values), rel=1e-8, abs=1e-8)


def test_pieces_of_one_value_each():
    values = np.array([2.0, -5.0, 1.0, 7.0, 7.5])
    merged = merge_all([Moments.of(values[i : i + 1], "w") for i in range(5)])
    assert merged.excess_kurtosis("w") == pytest.approx(scipy.stats.kurtosis(values), rel=1e-12)
    assert (merged.minimum, merged.maximum, merged.max_abs) == (-5.0, 7.5, 7.5)


def test_zeros_have_no_tails_and_are_named(caplog):
    moments = merge_all([Moments.of(np.zeros(n), "w") for n in (1000, 77)])
    assert moments.excess_kurtosis("layers.3.up_proj") == 0
    assert "layers.3.up_proj is all zero" in caplog.text


@pytest.mark.parametrize("value", [0.1, -3e30])
def test_constant_is_refused_by_name(value):
    moments = merge_all([Moments.of(np.full(n, value), "w") for n in (1000, 77)])
    with pytest.raises(ValueError, match=r"layers.3.q_proj is constant"):
        moments.excess_kurtosis("layers.3.q_proj")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"layers.3.q_proj holds values that are not finite"):
        Moments.of(np.array([1.0, value, 2.0]), "layers.3.q_proj")


def test_range_of_float64_is_not_left_silently():
    with pytest.raises(ValueError, match="w has values so large or so small"):
        Moments.of(np.array([0.0, 1e-170, 3e-170]), "w").excess_kurtosis("w")


def test_json_keeps_every_bit():
    moments = Moments.of(np.random.default_rng(0).normal(size=100), "w")
    assert Moments.from_json({**json.loads(json.dumps(moments.to_json())), "shape": [10, 10]}) == moments
