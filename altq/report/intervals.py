"""Intervals of means over seeds and of rank correlations, at 95 %, and what they let a table call the best."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from scipy import stats

from altq.report.table import Cell

LEVEL = 0.95


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean with Student's t interval; ValueError for fewer than two values or one that is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise ValueError(f"an interval of a mean needs two finite values or more, not {list(values)}")
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1).item() * deviation / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def normal_interval(value: float, stderr: float) -> Interval:
    """A value with its interval from a standard error."""
    half = stats.norm.ppf((1 + LEVEL) / 2).item() * stderr
    return Interval(value, value - half, value + half)


def mark_best(cells: Sequence[Cell], intervals: Sequence[Interval | None], highest: bool = False) -> list[Cell]:
    """The cells of one column, the lowest (or `highest`) bold where its interval touches no other's.

    Nothing is bold where no interval is clear of all others, where two cells print alike, and where nothing competes.
    intervals: of each cell, None where it is empty.
    """
    sign = -1 if highest else 1
    ends = {i: sorted((sign * of.low, sign * of.high)) for i, of in enumerate(intervals) if of is not None}
    texts = [cell.text for cell in cells]
    for best, (_, high) in ends.items():
        clear = all(high < low for i, (low, _) in ends.items() if i != best)  # a comparison with a NaN is false
        if len(ends) > 1 and clear and texts.count(texts[best]) == 1:
            return [replace(cell, bold=i == best) for i, cell in enumerate(cells)]
    return list(cells)


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
