"""Perplexity, and the ratio of two, with bootstrap intervals over windows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
NUM_RESAMPLES = 5000


class PerplexityInterval(NamedTuple):
    """A perplexity, or a ratio of two, with the ends of its interval."""

    perplexity: float
    low: float
    high: float


def perplexity_interval(
    nll: Sequence[float] | np.ndarray,
    tokens_per_window: Sequence[int] | np.ndarray | int,
    generator: np.random.Generator,
) -> PerplexityInterval:
    """Perplexity exp(sum nll / sum tokens) with its 95 % percentile bootstrap interval over windows.

    nll: sum of the token negative log-likelihoods of each window, in nats, [windows]; tokens_per_window: predicted
    tokens, one number or [windows]. ValueError for fewer than two windows, or values that are not finite.
    """
    nll = np.asarray(nll, dtype=np.float64)
    if nll.ndim != 1 or nll.size < 2:
        raise ValueError(f"a bootstrap interval needs two windows or more, but the shape of nll is {nll.shape}")
    tokens = np.broadcast_to(np.asarray(tokens_per_window, dtype=np.int64), nll.shape)
    if not np.isfinite(nll).all():
        window = int(np.argmin(np.isfinite(nll)))
        raise ValueError(
            f"the negative log-likelihood of window {window} is {nll[window]}: the model's outputs are not finite, "
            "so no perplexity is reported"
        )
    if (tokens <= 0).any():
        raise ValueError(f"window {int(np.argmin(tokens))} predicts {tokens.min()} tokens; each needs one or more")
    logs = np.array(_mean_interval(nll, tokens, generator))
    if logs.max() > np.log(np.finfo(np.float64).max):
        raise ValueError(f"a mean negative log-likelihood of {logs.max():.0f} nats a token has no finite perplexity")
    return PerplexityInterval(*np.exp(logs).tolist())


def ratio_interval(
    before: Sequence[float], after: Sequence[float], tokens_per_window: int, generator: np.random.Generator
) -> PerplexityInterval:
    """Ratio of two perplexities on the same windows, after over before, with its paired 95 % bootstrap interval.

    before, after: summed negative log-likelihoods of each window, [windows]. What makes a window hard is in both, so
    that the interval is far narrower than those of the two. ValueError for different numbers of windows, fewer than two,
    or values that are not finite.
    """
    differences = np.subtract(after, before, dtype=np.float64) if len(after) == len(before) else np.empty(0)
    if differences.size < 2 or not np.isfinite(differences).all():
        raise ValueError(
            f"a ratio of perplexities needs the same two windows or more, of finite losses; there are {len(before)} and "
            f"{len(after)}"
        )
    tokens = np.full(differences.shape, tokens_per_window)
    return PerplexityInterval(*np.exp(_mean_interval(differences, tokens, generator)).tolist())


def _mean_interval(sums: np.ndarray, tokens: np.ndarray, generator: np.random.Generator) -> tuple[float, float, float]:
    """Mean over tokens of what is summed in windows, with the ends of its interval over windows."""
    drawn = generator.integers(0, sums.size, size=(NUM_RESAMPLES, sums.size))  # [resamples, windows]
    means = sums[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    tail = (1 - LEVEL) / 2
    # The exponential is monotone, so the quantiles are taken before it.
    low, high = np.quantile(means, [tail, 1 - tail])
    return sums.sum() / tokens.sum(), low, high
