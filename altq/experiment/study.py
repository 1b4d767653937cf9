"""Contents of tables and figures: Table 3, and the study of selections (Tables 1, 4, 6 and 7, Figures 1 and 2).

Imports nothing heavy, since the workflow reads it.
"""

from collections import Counter
from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, field_validator

from altq.experiment.bounds import AtMost, Seed, Seeds
from altq.experiment.methods import METHODS, is_refined, unrefined
from altq.experiment.section import Section
from altq.experiment.setting import FULL, FULL_PRECISION, Setting

REFERENCE = "affine"
"""The method that others are compared with in pairs."""

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[list[Share], AtMost(20, "every pair of both halves is selected, assembled and evaluated")]
NumItems = Annotated[int, AtMost(1_000_000, "no task has as many items")]


class Table(Section):
    """Coverage of a table or figure of the study."""

    settings: list[str] = Field([], description="bit widths; those of the experiment when absent")

    @field_validator("settings")
    @classmethod
    def _parse_settings(cls, settings: list[str]) -> list[str]:
        return checked_settings(settings)


class ZeroShotOptions(Table):
    """Table 3: accuracy on the `tasks`, of methods and settings of its own."""

    methods: list[str] = Field([], description="methods that are compared; those of the experiment when absent")
    reference: str = Field("flatquant", description="the method that others are compared with on the same items")
    limit: NumItems | None = Field(
        None, ge=2, description="items of each task, drawn at random; all when absent or fewer"
    )
    seed: Seed = Field(0, description="seed by which they are drawn")

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

    beta_attention: Shares = Field([0.1, 0.5, 0.9], description="beta of attention, against beta_ffn")
    beta_ffn: Shares = Field([0.1, 0.5, 0.9], description="beta of ffn")
    share_attention: Shares = Field([0.5, 0.7, 0.9], description="share of attention, against share_ffn")
    share_ffn: Shares = Field([0.3, 0.5, 0.7], description="share of ffn")


class Table7(AccuracyTable):
    """Every policy on every setting, over calibration seeds of its own."""

    seeds: Seeds = Field([0, 1, 2], min_length=3, description="calibration seeds; three at least, for intervals")
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
        return distinct(seeds)


class Study(Section):
    """How selections compare: Tables 1, 4, 6 and 7, Figures 1 and 2."""

    table1: AccuracyTable = AccuracyTable()
    table4: AccuracyTable = AccuracyTable()
    table6: Table6 = Table6()
    table7: Table7 = Table7()
    figures: Table = Table()


def checked_settings(settings: list[str]) -> list[str]:
    """Settings in their standard form; ValueError for one that is malformed, quantizes nothing or is listed twice."""
    return distinct(each_checked(settings, _checked_setting))


def _checked_setting(setting: str) -> str:
    widths = Setting.parse(setting)
    if widths == FULL_PRECISION:
        raise ValueError(f"{FULL_PRECISION} quantizes nothing; list the method `{FULL}` instead")
    return str(widths)


def checked_methods(methods: list[str], choices: list[str]) -> list[str]:
    """Methods, all among `choices`, or one of ours refined; ValueError for an unknown one, with the nearest choice.

    ValueError, too, for one that is listed twice.
    """
    unknown = [method for method in dict.fromkeys(methods) if not _is_known(method, choices)]
    if unknown:
        problems = "; ".join(f"method {method!r} is not known{_hint(method, choices)}" for method in unknown)
        raise ValueError(f"{problems} (known: {', '.join(choices)})")
    return distinct(methods)


def _is_known(method: str, choices: list[str]) -> bool:
    return method in choices or (is_refined(method) and unrefined(method) in set(choices) & set(METHODS))


def _hint(method: str, choices: list[str]) -> str:
    near = get_close_matches(method, choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def each_checked(values: list[str], check: Callable[[str], str]) -> list[str]:
    """Results of `check` for every value; one ValueError has the problems of all."""
    checked, problems = [], []
    for value in values:
        try:
            checked.append(check(value))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    return checked


def distinct(values: list) -> list:
    """Return the values; ValueError for one that is listed twice."""
    doubles = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if doubles:
        raise ValueError(f"listed twice: {', '.join(doubles)}")
    return values
