"""The flags and the run of the commands that write a table."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from altq.commands.command import add_output
from altq.report.presentation import Presentation
from altq.runtime.files import write_json
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import provenance


def add_table(parser: argparse.ArgumentParser) -> None:
    """Add --results, --output and the presentation."""
    parser.add_argument("--results", type=Path, nargs="+", required=True, metavar="FILE", help="results")
    add_output(parser, ".csv file")
    add_options(parser, Presentation)


def add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--zero-shot", type=Path, nargs="*", default=[], metavar="FILE", help="zero-shot results of the same"
    )


def add_selections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--selections", type=Path, nargs="+", required=True, metavar="FILE", help="their selections")


def run_table(
    command: str,
    arguments: argparse.Namespace,
    write: Callable[[Presentation], None],
    inputs: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Let `write` write the table, and beside it a .json with its presentation and provenance.

    inputs: the files that are read besides --results. options: the command's own, besides the presentation.
    """
    presentation = read_options(arguments, Presentation)
    write(presentation)
    record = provenance(command, options or {}, [*arguments.results, *inputs])
    write_json(arguments.output.with_suffix(".json"), {"presentation": presentation.model_dump(), "provenance": record})
