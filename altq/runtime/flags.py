"""Options as command-line flags: a frozen pydantic model in, `--flag value` out, and back.

Each stage's slice of the configuration is one such model, so that config.yaml, the schema, `altq STAGE --help` and the
parameters that Snakemake tracks all come from the one definition.
"""

import argparse
import json
import shlex
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from altq.experiment.section import plain

Options = TypeVar("Options", bound=BaseModel)


def add_options(parser: argparse.ArgumentParser, options: type[BaseModel]) -> None:
    """Add a flag for every field of `options`, with its description and default."""
    group = parser.add_argument_group(options.__name__, options.__doc__)
    for name, field in options.model_fields.items():
        required = field.is_required()
        default = "required" if required else f"default: {_text(field.get_default())}"
        group.add_argument(
            _flag(name),
            metavar="VALUE",
            required=required,
            default=PydanticUndefined,
            help=f"{field.description} ({default})".replace("%", "%%"),
        )


def read_options(arguments: argparse.Namespace, options: type[Options]) -> Options:
    """The checked `options` from parsed arguments; ValueError with every problem."""
    values = {n: getattr(arguments, n) for n in options.model_fields if getattr(arguments, n) is not PydanticUndefined}
    try:
        return options.model_validate({name: _value(text) for name, text in values.items()})
    except ValidationError as error:
        lines = [f"{_flag(str(e['loc'][0])) if e['loc'] else 'options'}: {plain(e)}" for e in error.errors()]
        raise ValueError("; ".join(lines)) from None


def to_flags(options: BaseModel) -> str:
    """Flags from which `read_options` restores `options`: every field, in the order of definition."""
    values = options.model_dump(mode="json")
    return " ".join(f"{_flag(name)} {shlex.quote(_text(value))}" for name, value in values.items())


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, null, objects), the text itself otherwise."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
