"""What tables and figures cover: Table 3, and the study of selections (Tables 1, 4, 6 and 7, Figures 1 and 2).

Imports nothing heavy, since the workflow reads it.
"""

from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, field_validator

from altq.experiment.methods import FULL, METHODS
from altq.experiment.section import Section
from altq.experiment.setting import FULL_PRECISION, Setting

REFERENCE = "affine"
"""The method that others are compared with in pairs."""

Share = Annotated[float, Field(ge=0, le=1)]


class Table(Section):
    """What a table or figure of the study covers."""

    settings: list[str] = Field([], description="bit widths; those of the experiment when absent")

    @field_validator("settings")
    @classmethod
    def _parse_settings(cls, settings: list[str]) -> list[str]:
        return checked_settings(settings)


class ZeroShotOptions(Table):
    """Table 3: accuracy on the `tasks`, of methods and settings of its own."""

    methods: list[str] = Field([], description="methods that are compared; those of the experiment when absent")
    reference: str = Field("flatquant", description="the method that others are compared with on the same items")
    limit: int | None = Field(None, ge=2, description="items of each task, drawn at random; all when absent or fewer")
    seed: int = Field(0, ge=0, description="seed by which they are drawn")

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, methods: list[str]) -> list[str]:
        return checked_methods(methods, [FULL, *METHODS])

    @field_validator("reference")
    @classmethod
    def _known_reference(cls, reference: str) -> str:
        return checked_methods([reference], list(METHODS))[0]


class AccuracyTable(Table):
    """A table of perplexities that may have the zero-shot average beside them."""

    zero_shot: bool = Field(False, description="whether the zero-shot average is measured for its rows, too")


class Table6(Table):
    """Two grids of the heuristic's options, beta and share (L / n), around what `selection.heuristic` says."""

    beta_attention: list[Share] = Field([0.1, 0.5, 0.9], description="beta of attention, against beta_ffn")
    beta_ffn: list[Share] = Field([0.1, 0.5, 0.9], description="beta of ffn")
    share_attention: list[Share] = Field([0.5, 0.7, 0.9], description="share of attention, against share_ffn")
    share_ffn: list[Share] = Field([0.3, 0.5, 0.7], description="share of ffn")


class Table7(AccuracyTable):
    """Every policy on every setting, over calibration seeds of its own."""

    seeds: list[int] = Field([0, 1, 2], min_length=3, description="calibration seeds; three at least, for intervals")
    policies: list[str] = Field(
        ["affine", "rotation", "adaptive", "learned", "oracle", "probe", "predicted", "best_random"],
        description="methods that are compared, all-affine among them",
    )

    @field_validator("policies")
    @classmethod
    def _known_policies(cls, policies: list[str]) -> list[str]:
        if REFERENCE not in checked_methods(policies, list(METHODS)):
            raise ValueError(f"{REFERENCE} is missing, with which all others are compared")
        return policies

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int]) -> list[int]:
        return checked_seeds(seeds)


class Study(Section):
    """How selections compare: Tables 1, 4, 6 and 7, Figures 1 and 2."""

    table1: AccuracyTable = AccuracyTable()
    table4: AccuracyTable = AccuracyTable()
    table6: Table6 = Table6()
    table7: Table7 = Table7()
    figures: Table = Table()


def checked_settings(settings: list[str]) -> list[str]:
    """Settings as they are written; ValueError for one that cannot be read, quantizes nothing or is listed twice."""
    parsed = [str(Setting.parse(setting)) for setting in settings]
    if str(FULL_PRECISION) in parsed:
        raise ValueError(f"{FULL_PRECISION} quantizes nothing; list the method `{FULL}` instead")
    return distinct(parsed)


def checked_methods(methods: list[str], known: list[str]) -> list[str]:
    """Methods; ValueError for one that is not known, with the nearest that is, or listed twice."""
    for method in methods:
        if method not in known:
            near = get_close_matches(method, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"method {method!r} is not known{hint} (known: {', '.join(known)})")
    return distinct(methods)


def checked_seeds(seeds: list[int]) -> list[int]:
    """Seeds; ValueError for one that is negative or listed twice."""
    if min(seeds) < 0:
        raise ValueError(f"seed {min(seeds)} is negative")
    return distinct(seeds)


def distinct(values: list) -> list:
    """The values; ValueError where one is listed twice."""
    doubles = sorted({str(v) for v in values if values.count(v) > 1})
    if doubles:
        raise ValueError(f"listed twice: {', '.join(doubles)}")
    return values
