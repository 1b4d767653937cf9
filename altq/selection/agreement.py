"""How far two selections agree (Table 4)."""

from collections import Counter
from dataclasses import dataclass

from altq.experiment.kinds import HALVES
from altq.selection.selection import Selection


@dataclass(frozen=True)
class Agreement:
    """Counts: decisions (of 2n) that are the same, by half (of n each), and blocks with both halves the same (of n).

    by_chance: how many decisions two selections are expected to have alike that take each kind as often as these in
    each half, at random places.
    """

    num_blocks: int
    by_half: dict[str, int]
    blocks: int
    by_chance: float

    @property
    def decisions(self) -> int:
        return sum(self.by_half.values())


def agreement(first: Selection, second: Selection) -> Agreement:
    """ValueError where the selections are of different models."""
    if (first.model, first.num_blocks) != (second.model, second.num_blocks):
        raise ValueError(
            f"selections of {first.model!r} ({first.num_blocks} blocks) and {second.model!r} ({second.num_blocks}) "
            "cannot be compared"
        )
    same = [a == b for a, b in zip(first.kinds, second.kinds, strict=True)]
    by_half = {half: sum(same[offset::2]) for offset, half in enumerate(HALVES)}
    blocks = sum(a and b for a, b in zip(same[::2], same[1::2], strict=True))
    counts = [(Counter(first.kinds[half::2]), Counter(second.kinds[half::2])) for half in range(len(HALVES))]
    by_chance = sum(a[kind] * b[kind] for a, b in counts for kind in a) / first.num_blocks
    return Agreement(num_blocks=first.num_blocks, by_half=by_half, blocks=blocks, by_chance=by_chance)
