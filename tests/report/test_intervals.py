import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from altq.report.intervals import mean_interval, rank_correlation


def test_a_mean_of_three_by_hand():
    # Mean 2, deviation 1, t(0.975, 2) = 4.302653.
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - found.low == pytest.approx(found.high - 2)
    assert not found.excludes_zero


def test_zero_is_excluded_on_either_side_only():
    assert mean_interval([1.0, 1.01, 0.99]).excludes_zero
    assert mean_interval([-1.0, -1.01, -0.99]).excludes_zero
    assert not mean_interval([0.0, 0.0, 0.0]).excludes_zero


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.floats(-100, 100))
def test_a_shift_moves_the_interval(values, shift):
    found, moved = mean_interval(values), mean_interval([value + shift for value in values])
    assert found.low <= found.value <= found.high
    assert moved.low == pytest.approx(found.low + shift, abs=1e-6)


def test_it_covers_the_mean_as_often_as_it_says():
    drawn = stats.norm.rvs(size=(2000, 3), random_state=0)
    covered = sum(interval.low <= 0 <= interval.high for interval in map(mean_interval, drawn.tolist()))
    assert 0.935 < covered / 2000 < 0.965


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="two finite values or more"):
        mean_interval(values)


def test_a_rank_correlation_by_hand():
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8.
    found = rank_correlation([10, 20, 30, 40, 50], [2, 1, 40, 30, 500])
    assert found.value == pytest.approx(0.8)
    half = 1.959964 * math.sqrt((1 + 0.32) / 2)
    assert found.low == pytest.approx(math.tanh(math.atanh(0.8) - half), rel=1e-5)
    assert found.high == pytest.approx(math.tanh(math.atanh(0.8) + half), rel=1e-5)


def test_order_alone_counts():
    x = [3.0, 1.0, 2.0, 5.0, 4.0, 9.0]
    assert rank_correlation(x, [math.exp(v) for v in x]) == (1, 1, 1)
    assert rank_correlation(x, [-v for v in x]) == (-1, -1, -1)


def test_the_correlations_interval_covers_as_often_as_it_says():
    covered = 0
    true = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's rho of a Gaussian pair with correlation 0.5
    for seed in range(600):
        x, noise = stats.norm.rvs(size=(2, 30), random_state=seed)
        y = 0.5 * x + math.sqrt(0.75) * noise
        found = rank_correlation(x.tolist(), y.tolist())
        covered += found.low <= true <= found.high
    assert 0.92 < covered / 600 < 0.98


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 2, 3], [1, 2, 3], "four pairs"),
        ([1] * 5, [1, 2, 3, 4, 5], "constant"),
        ([1] * 5, [1] * 6, "four pairs"),
    ],
)
def test_what_cannot_be_ranked_is_refused(x, y, said):
    with pytest.raises(ValueError, match=said):
        rank_correlation(x, y)
