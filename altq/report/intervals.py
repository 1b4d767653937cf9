"""Intervals of means over seeds and of rank correlations, at 95 %."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean with Student's t interval; ValueError for fewer than two values or one that is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise ValueError(f"an interval of a mean needs two finite values or more, not {list(values)}")
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1).item() * deviation / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Spearman's rho with its interval by Fisher's z (Bonett and Wright, Psychometrika 65, 2000, Eq. 4).

    ValueError for fewer than four pairs, and where one side is constant, so that nothing can be ranked.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"a rank correlation needs four pairs or more, not {len(x)} and {len(y)}")
    if len(set(x)) == 1 or len(set(y)) == 1:
        raise ValueError("a rank correlation of constant values is not defined")
    rho = stats.spearmanr(x, y).statistic.item()
    if abs(rho) > 1 - 1e-12:
        return Interval(round(rho), round(rho), round(rho))
    half = stats.norm.ppf((1 + LEVEL) / 2).item() * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    z = math.atanh(rho)
    return Interval(rho, math.tanh(z - half), math.tanh(z + half))
