import math

import numpy as np
import pytest

from altq.evaluation.bootstrap import perplexity_interval, ratio_interval


def test_perplexity_is_of_all_tokens_together():
    interval = perplexity_interval([20.0, 60.0], [10, 30], np.random.default_rng(0))
    assert interval.perplexity == pytest.approx(math.exp(80 / 40))


def test_equal_windows_have_no_spread():
    interval = perplexity_interval([30.0] * 8, 10, np.random.default_rng(0))
    assert interval == pytest.approx((math.exp(3),) * 3)


def test_same_seed_same_bits():
    nll = np.random.default_rng(1).normal(1500, 100, size=40)
    first, again, other = (perplexity_interval(nll, 511, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first == again
    assert first.perplexity == other.perplexity
    assert first.low != other.low


def test_interval_is_the_standard_error_for_many_windows():
    nll = np.random.default_rng(1).normal(300, 10, size=400)
    perplexity, low, high = perplexity_interval(nll, 100, np.random.default_rng(0))
    standard_error = nll.std() / 100 / 400**0.5
    assert low < perplexity < high
    assert math.log(low) == pytest.approx(math.log(perplexity) - 1.96 * standard_error, abs=0.1 * standard_error)
    assert math.log(high) == pytest.approx(math.log(perplexity) + 1.96 * standard_error, abs=0.1 * standard_error)


def test_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        _, low, high = perplexity_interval(generator.normal(200, 20, size=50), 100, generator)
        covered += low <= math.exp(2) <= high
    assert 180 <= covered <= 199


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"window 1 is (nan|inf)"):
        perplexity_interval([1.0, value, 2.0], 10, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("nll", "tokens", "message"),
    [
        ([1.0], 10, "two windows or more"),
        ([1.0, 2.0], [5, 0], "window 1 predicts 0 tokens"),
        ([1e6, 1e6], 10, "no finite perplexity"),
    ],
)
def test_bad_input_is_refused(nll, tokens, message):
    with pytest.raises(ValueError, match=message):
        perplexity_interval(nll, tokens, np.random.default_rng(0))


def test_a_ratio_is_that_of_both_perplexities_and_far_surer_than_either():
    generator = np.random.default_rng(1)
    before = generator.normal(1500, 300, size=40)
    after = before + generator.normal(50, 5, size=40)
    ratio, low, high = ratio_interval(before, after, 500, np.random.default_rng(0))
    both = [perplexity_interval(nll, 500, np.random.default_rng(0)) for nll in (before, after)]
    assert ratio == pytest.approx(both[1].perplexity / both[0].perplexity)
    assert low < ratio < high and high / low < 1.02 < both[0].high / both[0].low


@pytest.mark.parametrize(("before", "after"), [([1.0, 2.0], [1.0]), ([1.0], [1.0]), ([1.0, 2.0], [1.0, math.nan])])
def test_a_ratio_of_different_windows_is_refused(before, after):
    with pytest.raises(ValueError, match="needs the same two windows or more, of finite losses"):
        ratio_interval(before, after, 10, np.random.default_rng(0))
