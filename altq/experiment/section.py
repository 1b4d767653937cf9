"""The frozen base class of every section of the configuration, and what is wrong with one, in plain words."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A frozen section: an unknown key, an infinity and a NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def problems_of(error: ValidationError, whole: str = "") -> list[str]:
    """`place: problem` for each problem of a description; `whole` is the place of one that is of no single key."""
    return [_line(".".join(map(str, e["loc"])) or whole, plain(e)) for e in error.errors(include_url=False)]


def _line(place: str, problem: str) -> str:
    return f"{place}: {problem}" if place else problem


def plain(error: Mapping[str, Any]) -> str:
    """What pydantic found, without its own words."""
    if error["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if error["type"] in ("model_type", "dict_type", "dataclass_type"):
        return f"is {_kind(error['input'])}, not an object with keys"
    return error["msg"].removeprefix("Value error, ")


def _kind(value: Any) -> str:
    names = {
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "empty",
    }
    return names.get(type(value), f"a {type(value).__name__}")
