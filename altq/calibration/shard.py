"""A contiguous share of a model's units of calibration: which of how many."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`th of `count` shards, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse "2/8", the second of eight; ValueError for any other form, and for a number that is not of the count."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(*map(int, match.groups())) if match else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise ValueError(f"{text!r} is no shard; write 2/8 for the second of eight")
        return shard

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its items: shards are as equal as can be, and every item is in one of them."""
        return items[len(items) * (self.number - 1) // self.count : len(items) * self.number // self.count]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard(1, 1)
