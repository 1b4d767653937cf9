"""Models side by side: what their weights take, and their perplexities on the same windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from altq.evaluation.bootstrap import PerplexityInterval, perplexity_interval, ratio_interval
from altq.runtime.documents import Record, read_described

SEED = 0


class _Losses(Record):
    """The keys of a perplexity result that are compared."""

    corpus: str
    nll: list[float] = Field(min_length=2)
    window_length: int = Field(ge=2)


@dataclass(frozen=True)
class Measured:
    """A model, the bytes of its weights, and the summed losses of windows [windows] of so many tokens."""

    name: str
    num_bytes: int
    losses: Sequence[float]
    window_length: int

    @classmethod
    def read(cls, name: str, num_bytes: int, result: Path) -> "Measured":
        """Read the losses of a file that `altq perplexity` wrote."""
        losses = read_described(result, _Losses, "evaluate again", "a perplexity result")
        return cls(name, num_bytes, losses.nll, losses.window_length)

    def perplexity(self) -> PerplexityInterval:
        return perplexity_interval(self.losses, self.window_length - 1, np.random.Generator(np.random.PCG64(SEED)))

    def over(self, other: "Measured") -> PerplexityInterval:
        """Its perplexity over another's, paired by windows."""
        generator = np.random.Generator(np.random.PCG64(SEED))
        return ratio_interval(other.losses, self.losses, self.window_length - 1, generator)


def side_by_side(reference: Measured, others: Sequence[Measured]) -> str:
    """A row for each model, the others with the ratio of their perplexity to the reference's; 95 % intervals."""
    rows = [("", "weights", "perplexity", f"over {reference.name}")]
    for measured in (reference, *others):
        ratio = "" if measured is reference else _interval(measured.over(reference), digits=3)
        rows.append((measured.name, f"{measured.num_bytes / 1e6:,.1f} MB", _interval(measured.perplexity()), ratio))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _interval(interval: PerplexityInterval, digits: int = 2) -> str:
    return f"{interval.perplexity:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def weight_bytes(folder: Path) -> int:
    """Bytes of the safetensors of a model folder or checkpoint."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
