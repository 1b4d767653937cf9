"""The file of weight statistics that `altq statistics` writes, as a policy or figure reads it."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from altq.runtime.documents import Record, read_described

Value = Annotated[float, Field(ge=-1e39, le=1e39)]
"""What a float32 can hold, so that its square can be taken."""


class Projection(Record):
    """The moments of one projection's weights, and their excess kurtosis."""

    excess_kurtosis: float
    count: int = Field(ge=1, le=2**63)
    mean: Value
    m2: float
    m3: float
    m4: float
    minimum: Value
    maximum: Value


class Sublayer(Record):
    """The projections of one half of a block, by site."""

    block: int = Field(ge=0)
    half: Literal["attention", "ffn"]
    selected_site: str
    sites: dict[str, dict[str, Projection]]

    @model_validator(mode="after")
    def _has_its_site(self) -> Self:
        if not self.sites.get(self.selected_site):
            raise ValueError(f"its selected site {self.selected_site!r} has no projection")
        return self


class Statistics(Record):
    """All sublayers of a model, in order."""

    model: str
    num_blocks: int = Field(ge=1)
    sublayers: list[Sublayer]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        places = [(sublayer.block, sublayer.half) for sublayer in self.sublayers]
        if places != [(block, half) for block in range(len(places) // 2) for half in ("attention", "ffn")]:
            raise ValueError("its sublayers are not the attention and the ffn of each block, in order")
        if len(places) != 2 * self.num_blocks:
            raise ValueError(
                f"it has {len(places)} sublayers, but a model of {self.num_blocks} blocks has twice as many"
            )
        return self


def read_statistics(path: str | Path) -> dict[str, Any]:
    """The content of a file of weight statistics; ValueError names the file and what is wrong with it."""
    return read_described(path, Statistics, "run `altq statistics` again").model_dump()
