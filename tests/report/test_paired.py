import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from altq.report.paired import mcnemar, mean_difference, paired_difference


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_mcnemar_by_hand():
    # 8 items that only one answers right, 7 of them ours: 2 (1 + 8) / 2^8.
    difference = np.array([1] * 7 + [-1] + [0] * 50)
    assert mcnemar(difference) == pytest.approx(2 * 9 / 256) == mcnemar(-difference)
    assert mcnemar(np.zeros(5)) == 1 and mcnemar(np.array([1, -1])) == 1


def test_items_are_paired_by_their_row():
    ours, reference = pandas.Series([1, 0, 1], index=[4, 7, 9]), pandas.Series([0, 1, 1], index=[7, 9, 4])
    assert paired_difference(ours, reference).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="are not the same"):
        paired_difference(ours, reference.drop(4))


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 300), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 9))
def test_the_interval_is_that_of_the_mean(n, wins, losses, seed):
    difference = rng(seed).choice([1, -1, 0], p=[wins, losses, 1 - wins - losses], size=n)
    value, low, high = mean_difference({"task": difference}, rng())
    assert value == difference.mean() and low <= value <= high
    half = stats.norm.ppf(0.975) * difference.std() / n**0.5
    assert (high - low) / 2 == pytest.approx(half, abs=0.15 * half + 1 / n)


def test_a_small_task_weighs_as_much_as_a_large_one():
    value, low, high = mean_difference({"small": np.ones(10), "large": np.zeros(1000)}, rng())
    assert (value, low, high) == (0.5, 0.5, 0.5)


def test_a_task_without_items_is_refused():
    with pytest.raises(ValueError, match="without items"):
        mean_difference({"a": np.array([])}, rng())
