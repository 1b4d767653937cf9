"""Outlier-guided selection: rotation at both tails of the kurtosis, affine between them (Eq. 9-15, in their order).

The kurtosis itself, Eq. 8, is in altq/selection/kurtosis.py. Where the paper leaves room the docstrings say how it is
filled.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from altq.experiment.kinds import HALVES
from altq.experiment.policies import HeuristicOptions, TailOptions
from altq.selection.kurtosis import Moments, merge_all
from altq.selection.selection import Decision, Selection

EPSILON = 1e-12  # Eq. 9


@dataclass(frozen=True)
class Tails:
    """The two tails of one half, by position among its n layers; the tau of an empty tail is infinite."""

    outliers: tuple[float, ...]
    z: tuple[float, ...]
    median: float
    mad: float
    beta: float
    high: tuple[int, ...]
    low: tuple[int, ...]
    tau_high: float
    tau_low: float


def kurtosis_scores(statistics: Mapping[str, Any], half: str, score: str) -> list[float]:
    """One score for each block: the kurtosis of the projections of the half's selected site, summed or taken as one."""
    scores = []
    for sublayer in statistics["sublayers"]:
        if sublayer["half"] != half:
            continue
        site = sublayer["selected_site"]
        projections = [projection for _, projection in sorted(sublayer["sites"][site].items())]
        if score == "sum":
            scores.append(math.fsum(projection["excess_kurtosis"] for projection in projections))
        else:
            together = merge_all([Moments.from_json(projection) for projection in projections])
            scores.append(together.excess_kurtosis(f"block {sublayer['block']}, {site} taken together"))
    return scores


def robust_z(outliers: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Robust z-scores, median and median absolute deviation of |kurtosis| (Eq. 9); all z are 0 where the MAD is 0."""
    median = float(np.median(outliers))
    mad = float(np.median(np.abs(outliers - median)))
    z = np.zeros_like(outliers) if mad == 0 else (outliers - median) / (1.4826 * mad + EPSILON)
    return z, median, mad


def share_of(share: float, count: int) -> int:
    """`share` of `count`, rounded half up (the rounding of Eq. 10 and of L).

    Multiplied in decimal: 0.57 of 50 is 28.5, so 29, where binary floating point gives 28.499... and so 28.
    """
    return int((Decimal(repr(share)) * count).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def num_rotations(options: TailOptions, num_layers: int, model: str) -> int:
    """L, the number of rotated layers of one half; ValueError if more are asked for than the model has."""
    if options.count is not None:
        count = options.count
    else:
        assert options.share is not None, "one of the two is given"
        count = share_of(options.share, num_layers)
    if count > num_layers:
        raise ValueError(
            f"model {model!r} has n = {num_layers} layers of a kind, but the heuristic is to rotate L = {count} of "
            f"them; give a count of at most {num_layers}, or a share"
        )
    return count


def upper_share(z: np.ndarray, options: TailOptions) -> float:
    """beta: as configured, or the positive share of the z-mass, clipped (Eq. 11-12).

    Where every z is 0 the z-mass says nothing, and the configured beta stands.
    """
    mass = float(np.abs(z).sum())
    if options.beta_rule == "fixed" or mass == 0:
        return options.beta
    return float(np.clip(z[z > 0].sum() / mass, *options.z_mass_limits))


def find_tails(scores: Sequence[float], options: TailOptions, num_rotation: int) -> Tails:
    """Split exactly `num_rotation` of the layers with these kurtosis scores between the two tails (Eq. 9-15).

    tau_high is the K_high-th largest z (Eq. 13 prints n - K_high, a misprint), tau_low the K_low-th smallest. Layers
    are ranked by |kurtosis|, which orders them as z does and still tells them apart where the MAD is 0; ties go to the
    lower layer, so that the tails are disjoint and the count is exact. ValueError for a kurtosis that is not finite.
    """
    outliers = np.abs(np.asarray(scores, dtype=np.float64))
    if not np.isfinite(outliers).all():
        raise ValueError(f"the kurtosis of layer {int(np.argmin(np.isfinite(outliers)))} is not finite")
    z, median, mad = robust_z(outliers)
    beta = upper_share(z, options)
    num_high = share_of(beta, num_rotation)
    descending = sorted(range(len(scores)), key=lambda i: (-outliers[i], i))
    high = descending[:num_high]
    ascending = sorted(descending[num_high:], key=lambda i: (outliers[i], i))
    low = ascending[: num_rotation - num_high]
    return Tails(
        outliers=tuple(outliers.tolist()),
        z=tuple(z.tolist()),
        median=median,
        mad=mad,
        beta=beta,
        high=tuple(high),
        low=tuple(low),
        tau_high=float(z[high[-1]]) if high else math.inf,
        tau_low=float(z[low[-1]]) if low else -math.inf,
    )


def heuristic_selection(statistics: Mapping[str, Any], options: HeuristicOptions) -> Selection:
    """The paper's selection for one model from its weight statistics (altq/selection/weight_statistics.py).

    ValueError if more layers are to be rotated than there are; a warning where the MAD is 0 and rank order decides.
    """
    model, num_blocks = statistics["model"], statistics["num_blocks"]
    decisions: list[Decision] = []
    thresholds = {}
    for offset, half in enumerate(HALVES):
        half_options: TailOptions = getattr(options, half)
        scores = kurtosis_scores(statistics, half, half_options.score)
        tails = find_tails(scores, half_options, num_rotations(half_options, num_blocks, model))
        if tails.mad == 0:
            warnings.warn(
                f"model {model!r}: at least half of the {half} layers have the same |kurtosis| {tails.median:.4g} "
                "(MAD = 0); the tails are chosen by rank, ties by layer index",
                stacklevel=2,
            )
        thresholds[half] = _describe(tails, half_options)
        rotated = {*tails.high, *tails.low}
        decisions += [
            Decision(
                sublayer=2 * i + offset,
                kind="rotation" if i in rotated else "affine",
                reason=_reason(tails, i, score),
                score=score,
                z=tails.z[i],
            )
            for i, score in enumerate(scores)
        ]
    decisions.sort(key=lambda decision: decision.sublayer)
    return Selection(
        policy="heuristic", model=model, num_blocks=num_blocks, decisions=tuple(decisions), thresholds=thresholds
    )


def _describe(tails: Tails, options: TailOptions) -> dict[str, Any]:
    values = asdict(tails)
    num_high, num_low = len(values.pop("high")), len(values.pop("low"))
    del values["z"], values["outliers"]
    infinite = {name: None for name in ("tau_high", "tau_low") if math.isinf(values[name])}
    counts = {"num_rotation": num_high + num_low, "num_high": num_high, "num_low": num_low}
    return {**values, **infinite, **counts, "score": options.score, "beta_rule": options.beta_rule}


def _reason(tails: Tails, layer: int, score: float) -> str:
    z, high, low = (f"{value:.4g}" for value in (tails.z[layer], tails.tau_high, tails.tau_low))
    if layer in tails.high:
        comparison, conclusion = f"z = {z} >= tau_high = {high}", "upper tail, rotation"
    elif layer in tails.low:
        comparison, conclusion = f"z = {z} <= tau_low = {low}", "lower tail, rotation"
    elif tails.tau_low < tails.z[layer] < tails.tau_high:
        comparison, conclusion = f"tau_low = {low} < z = {z} < tau_high = {high}", "between the tails, affine"
    else:
        comparison, conclusion = f"z = {z} is on a threshold, but lower layers tied with it fill the tail", "affine"
    if tails.mad == 0:
        comparison = "MAD = 0, so rank order decides"
    return f"kurtosis {score:.4g}, {comparison}: {conclusion}"
