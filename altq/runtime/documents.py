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
    """The keys of a result file that are read; numbers are finite, and other keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


def described(content: Any, description: type[Described], name: str | Path, remedy: str) -> Described:
    """Plain content as a typed description; ValueError with every problem, where it is and the remedy."""
    try:
        return TypeAdapter(description).validate_python(content)
    except ValidationError as error:
        raise ValueError(f"{name}: {'; '.join(shortened(problems_of(error)))}; {remedy}") from None


def read_described(
    path: str | Path, description: type[Described], remedy: str, role: str = "", name: str = ""
) -> Described:
    """A JSON file as a typed description; ValueError has every problem, the file, the `role` it lacks, the remedy.

    name: what messages call the file, its path by default.
    """
    display_name = name or path
    try:
        content = read_json(path, display_name)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None
    return described(
        content, description, name=f"{display_name} is not {role}" if role else display_name, remedy=remedy
    )


def shortened(problems: list[str]) -> list[str]:
    """The first problems of a long list, and the number of the rest."""
    if len(problems) <= NUM_PROBLEMS_SHOWN:
        return problems
    return [*problems[:NUM_PROBLEMS_SHOWN], f"and {len(problems) - NUM_PROBLEMS_SHOWN} more"]


def parse_yaml(text: str, name: str | Path) -> Any:
    """The value of a YAML text; ValueError with line and column, for a key given twice, and for nesting without end."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _checked_size(node, {}) > MAX_VALUES:
            raise ValueError(f"{name} expands to more than {MAX_VALUES:,} values by its aliases; write them out")
        return _constructed(loader, node, name)
    except yaml.YAMLError as error:
        _refuse_yaml(error, name)
    except RecursionError:
        raise ValueError(f"{name} is not YAML that can be read: it is nested too deeply; flatten it") from None


def _constructed(loader: yaml.SafeLoader, node: yaml.Node, name: str | Path) -> Any:
    try:
        return loader.construct_document(node)
    # Constructors of numbers, dates and so on raise these for a malformed value.
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        problem = f"a value is not what its form or tag says ({error})"
        raise ValueError(f"{name} is not YAML: {problem}; quote or correct it") from None


def _refuse_yaml(error: yaml.YAMLError, name: str | Path) -> NoReturn:
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ValueError(
            f"{name} is not YAML: it has the character U+{code:04X} at position {error.position}; remove it"
        )
    assert isinstance(error, yaml.MarkedYAMLError), "PyYAML raises no other"
    mark = error.problem_mark or error.context_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    raise ValueError(f"{name} is not YAML: {problem}{place}; correct it") from None


def _checked_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of values that a YAML node expands to, aliases included; YAMLError for doubled keys."""
    if id(node) not in sizes:
        sizes[id(node)] = MAX_VALUES + 1  # stays so while it is counted: an alias may lead back to it
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        parts = node.value if isinstance(node.value, list) else []
        inner = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
        sizes[id(node)] = 1 + sum(_checked_size(part, sizes) for part in inner)
    return sizes[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    keys = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in keys:
            problem = f"the key {key.value!r} is given twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        keys.add(key.value)


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file; ValueError where it is none."""
    return parse_yaml(decoded(Path(path).read_bytes(), path), path)
