"""Documents from outside: JSON and YAML, parsed into typed descriptions or refused in one message.

A refusal names the file, the place in it, and what to do about it. Nothing heavy is imported here.
"""

import json
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

Described = TypeVar("Described")

NUM_PROBLEMS_SHOWN = 5
MAX_VALUES = 1_000_000
"""Values that a YAML file may expand to: a page of aliases of aliases expands to more than any memory holds."""


class Record(BaseModel):
    """What a file of results holds, as far as we read it: finite numbers, and other keys left alone."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


def decoded(content: bytes, where: str | Path) -> str:
    """Text in UTF-8, with or without a byte order mark; ValueError names the line that is none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The offsets of an error count from behind the byte order mark; `object` is what they count in.
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{where} is not UTF-8: line {line} has the byte 0x{error.object[error.start]:02x}; save it as UTF-8"
        ) from None


def parse_json(text: str, where: str | Path) -> Any:
    """The value of a JSON text; ValueError with line and column, for a key given twice, and for nesting without end."""
    try:
        return json.loads(text, object_pairs_hook=_distinct_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"{where} is no JSON that can be read: its brackets are nested too deeply") from None
    except ValueError as error:  # a key that is given twice, or a number of thousands of digits
        raise ValueError(f"{where} is no JSON that can be read: {error}") from None


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        doubled = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {doubled!r} is given twice; remove one of them")
    return content


def read_json(path: str | Path) -> Any:
    """The value of a JSON file; ValueError where it is none."""
    return parse_json(decoded(Path(path).read_bytes(), path), path)


def described(content: Any, description: type[Described], where: str | Path, remedy: str) -> Described:
    """Plain content as a typed description; ValueError with every problem, where it is and the remedy."""
    try:
        return TypeAdapter(description).validate_python(content)
    except ValidationError as error:
        raise ValueError(f"{where}: {'; '.join(shortened(problems_of(error)))}; {remedy}") from None


def read_described(path: str | Path, description: type[Described], remedy: str) -> Described:
    """A JSON file as a typed description; ValueError with every problem, the file and the remedy."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None
    return described(content, description, path, remedy)


def problems_of(error: ValidationError, whole: str = "") -> list[str]:
    """`place: problem` for each problem of a description; `whole` is the place of one that is of no single key."""
    return [_line(".".join(map(str, e["loc"])) or whole, _plain(e)) for e in error.errors(include_url=False)]


def shortened(problems: list[str]) -> list[str]:
    """The first problems of a long list, and how many more there are."""
    if len(problems) <= NUM_PROBLEMS_SHOWN:
        return problems
    return [*problems[:NUM_PROBLEMS_SHOWN], f"and {len(problems) - NUM_PROBLEMS_SHOWN} more"]


def _line(place: str, problem: str) -> str:
    return f"{place}: {problem}" if place else problem


def _plain(error: Mapping[str, Any]) -> str:
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


class _Loader(yaml.SafeLoader):
    """The safe loader, to which a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        known = set()
        for key, _ in node.value:
            if key.value in known:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is given twice; remove one of them", problem_mark=key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                known.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str | Path) -> Any:
    """The value of a YAML text; ValueError with line and column, for a key given twice, and for nesting without end."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > MAX_VALUES:
            raise ValueError(f"{where} expands to more than {MAX_VALUES:,} values by its aliases; write them out")
        return _constructed(loader, node, where)
    except yaml.YAMLError as error:
        _refuse_yaml(error, where)
    except RecursionError:
        raise ValueError(f"{where} is not YAML that can be read: it is nested too deeply") from None


def _constructed(loader: _Loader, node: yaml.Node, where: str | Path) -> Any:
    try:
        return loader.construct_document(node)
    # What its constructors of numbers, dates and so on raise where a value is none.
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"{where} is not YAML: a value is not what its form or tag says ({error}); quote it") from None


def _refuse_yaml(error: yaml.YAMLError, where: str | Path) -> NoReturn:
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ValueError(
            f"{where} is not YAML: it has the character U+{code:04X} at position {error.position}; remove it"
        )
    mark = error.problem_mark or error.context_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    raise ValueError(f"{where} is not YAML: {error.problem}{place}") from None


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a YAML node stands for, each alias counted as all that it repeats."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # what it is within itself, where an alias leads back to it
        parts = node.value if isinstance(node.value, list) else []
        inner = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
        known[id(node)] = 1 + sum(_expanded_size(part, known) for part in inner)
    return known[id(node)]


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file; ValueError where it is none."""
    return parse_yaml(decoded(Path(path).read_bytes(), path), path)
