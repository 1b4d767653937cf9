"""Central moments of a distribution that is seen in pieces, and its excess kurtosis (Eq. 8)."""

import logging
import math
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moments:
    """Sums of powers of deviations from the mean: m2 = sum (x - mean)^2, likewise m3 and m4."""

    count: int
    mean: float
    m2: float
    m3: float
    m4: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: np.ndarray, name: str) -> "Moments":
        """Moments of all entries of `values`, in float64 and two passes; ValueError if one is not finite, naming it.

        numpy's pairwise sums run on one thread, so the bits do not depend on the number of threads.
        """
        values = np.asarray(values, dtype=np.float64).ravel()
        if values.size == 0:
            raise ValueError(f"{name} is empty: it has no moments")
        minimum, maximum = float(values.min()), float(values.max())
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            raise ValueError(f"{name} holds values that are not finite (NaN or infinity); the model file is damaged")
        mean = float(values.mean())
        deviations = values - mean
        squares = deviations * deviations
        return cls(
            count=values.size,
            mean=mean,
            m2=float(squares.sum()),
            m3=float((squares * deviations).sum()),
            m4=float((squares * squares).sum()),
            minimum=minimum,
            maximum=maximum,
        )

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both samples together (Pébay, Sandia report SAND2008-6212, Eq. 2.1 for p = 2, 3, 4)."""
        a, b = self, other
        count = a.count + b.count
        delta = b.mean - a.mean
        share_a, share_b = a.count / count, b.count / count
        between = delta * delta * a.count * share_b  # the part of m2 that lies between the two means
        return Moments(
            count=count,
            mean=a.mean + delta * share_b,
            m2=a.m2 + b.m2 + between,
            m3=a.m3 + b.m3 + between * delta * (share_a - share_b) + 3 * delta * (share_a * b.m2 - share_b * a.m2),
            m4=a.m4
            + b.m4
            + between * delta**2 * (share_a**2 - share_a * share_b + share_b**2)
            + 6 * delta**2 * (share_a**2 * b.m2 + share_b**2 * a.m2)
            + 4 * delta * (share_a * b.m3 - share_b * a.m3),
            minimum=min(a.minimum, b.minimum),
            maximum=max(a.maximum, b.maximum),
        )

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(self.m2 / self.count)

    @property
    def max_abs(self) -> float:
        return max(-self.minimum, self.maximum)

    def excess_kurtosis(self, name: str) -> float:
        """Eq. 8 with population moments; ValueError names the tensor where all values are equal (kurtosis is 0/0).

        A tensor of zeros has no outliers and no tails: 0 stands for its kurtosis, with a warning.
        """
        if self.minimum == self.maximum == 0:
            log.warning("%s is all zero: its kurtosis is not defined, and 0 stands for it", name)
            return 0.0
        # Not `m2 == 0`: rounding of the mean leaves a constant tensor with a tiny m2 and a meaningless ratio.
        if self.minimum == self.maximum:
            raise ValueError(f"{name} is constant (every value is {self.minimum:g}): its kurtosis is not defined")
        variance = self.m2 / self.count
        kurtosis = self.m4 / self.count / (variance * variance) - 3.0 if variance * variance > 0 else math.nan
        if not math.isfinite(kurtosis):
            raise ValueError(f"{name} has values so large or so small that its kurtosis leaves the range of float64")
        return kurtosis

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "Moments":
        """Read the moments out of an entry that may hold more."""
        return cls(**{field: entry[field] for field in cls.__dataclass_fields__})


def merge_all(parts: list[Moments]) -> Moments:
    """Moments of all parts taken together."""
    return reduce(Moments.merge, parts)
