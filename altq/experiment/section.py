"""The frozen base class of every section of the configuration, and its problems in plain words."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A frozen section: an unknown key, an infinity and a NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def problems_of(error: ValidationError, root: str = "") -> list[str]:
    """List the problems of a description as `place: problem`; `root` is the place of one without a key of its own."""
    return [_line(".".join(map(str, e["loc"])) or root, plain(e)) for e in error.errors(include_url=False)]


def _line(place: str, problem: str) -> str:
    return f"{place}: {problem}" if place else problem


def plain(error: Mapping[str, Any]) -> str:
    """Describe a problem that pydantic found, without pydantic's terms."""
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
