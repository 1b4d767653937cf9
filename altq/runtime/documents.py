"""Documents from outside: JSON and YAML, parsed into typed descriptions or refused in one message.

A refusal names the file, the place in it, and what to do about it. Nothing heavy is imported here.
"""

from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from altq.experiment.section import problems_of
from altq.runtime.files import decoded, read_json

Described = TypeVar("Described")

NUM_PROBLEMS_SHOWN = 5
MAX_VALUES = 1_000_000
"""Values that a YAML file may expand to: a page of aliases of aliases expands to more than any memory holds."""


class Record(BaseModel):
    """What a file of results holds, as far as we read it: finite numbers, and other keys left alone."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


def described(content: Any, description: type[Described], where: str | Path, remedy: str) -> Described:
    """Plain content as a typed description; ValueError with every problem, where it is and the remedy."""
    try:
        return TypeAdapter(description).validate_python(content)
    except ValidationError as error:
        raise ValueError(f"{where}: {'; '.join(shortened(problems_of(error)))}; {remedy}") from None


def read_described(
    path: str | Path, description: type[Described], remedy: str, what: str = "", name: str = ""
) -> Described:
    """A JSON file as a typed description; ValueError with every problem, the file, `what` it is not, and the remedy.

    name: what messages call the file, its path by default.
    """
    shown = name or path
    try:
        content = read_json(path, shown)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None
    return described(content, description, f"{shown} is not {what}" if what else shown, remedy)


def shortened(problems: list[str]) -> list[str]:
    """The first problems of a long list, and how many more there are."""
    if len(problems) <= NUM_PROBLEMS_SHOWN:
        return problems
    return [*problems[:NUM_PROBLEMS_SHOWN], f"and {len(problems) - NUM_PROBLEMS_SHOWN} more"]


def parse_yaml(text: str, where: str | Path) -> Any:
    """The value of a YAML text; ValueError with line and column, for a key given twice, and for nesting without end."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _checked_size(node, {}) > MAX_VALUES:
            raise ValueError(f"{where} expands to more than {MAX_VALUES:,} values by its aliases; write them out")
        return _constructed(loader, node, where)
    except yaml.YAMLError as error:
        _refuse_yaml(error, where)
    except RecursionError:
        raise ValueError(f"{where} is not YAML that can be read: it is nested too deeply; flatten it") from None


def _constructed(loader: yaml.SafeLoader, node: yaml.Node, where: str | Path) -> Any:
    try:
        return loader.construct_document(node)
    # What its constructors of numbers, dates and so on raise where a value is none.
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        said = f"a value is not what its form or tag says ({error})"
        raise ValueError(f"{where} is not YAML: {said}; quote or correct it") from None


def _refuse_yaml(error: yaml.YAMLError, where: str | Path) -> NoReturn:
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ValueError(
            f"{where} is not YAML: it has the character U+{code:04X} at position {error.position}; remove it"
        )
    assert isinstance(error, yaml.MarkedYAMLError), "PyYAML raises no other"
    mark = error.problem_mark or error.context_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    raise ValueError(f"{where} is not YAML: {problem}{place}; correct it") from None


def _checked_size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a YAML node stands for, each alias counted as all that it repeats; an error for doubled keys."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # what it is within itself, where an alias leads back to it
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        parts = node.value if isinstance(node.value, list) else []
        inner = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
        known[id(node)] = 1 + sum(_checked_size(part, known) for part in inner)
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    known = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in known:
            problem = f"the key {key.value!r} is given twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        known.add(key.value)


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file; ValueError where it is none."""
    return parse_yaml(decoded(Path(path).read_bytes(), path), path)
