"""Paired comparison on the same items: McNemar's test, and the interval of a difference of averages over tasks."""

from collections.abc import Mapping

import numpy as np
import pandas
from scipy import stats

from altq.report.intervals import LEVEL, Interval

NUM_RESAMPLES = 5000


def paired_difference(ours: pandas.Series, reference: pandas.Series) -> np.ndarray:
    """Compare item by item, -1, 0 or 1: [items]; ValueError unless both were asked the same items."""
    if set(ours.index) != set(reference.index):
        raise ValueError(f"{len(ours)} and {len(reference)} items are not the same; evaluate both on the same requests")
    return (ours - reference.loc[ours.index]).to_numpy()


def mcnemar(difference: np.ndarray) -> float:
    """Test that neither is better: the exact two-sided p-value over items that just one answers right."""
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def mean_difference(differences: Mapping[str, np.ndarray], generator: np.random.Generator) -> Interval:
    """Average the mean difference over tasks, with a 95 % percentile bootstrap interval.

    Items are drawn again within each task, so that each keeps its weight. ValueError where a task has no item.
    """
    if not all(len(of_task) for of_task in differences.values()):
        raise ValueError("a task without items has no mean")
    means = np.zeros(NUM_RESAMPLES)
    for of_task in differences.values():
        # An item is worth -1, 0 or 1: a resample is a draw of how many of each.
        counts = np.array([(of_task == value).sum() for value in (-1, 0, 1)])
        drawn = generator.multinomial(len(of_task), counts / len(of_task), size=NUM_RESAMPLES)  # [resamples, 3]
        means += (drawn[:, 2] - drawn[:, 0]) / len(of_task) / len(differences)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    value = float(np.mean([of_task.mean() for of_task in differences.values()]))
    return Interval(value, float(low), float(high))
