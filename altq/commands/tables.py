"""What the commands that write tables of perplexities share."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altq.commands.command import add_output
from altq.report.protocol import Captions
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import provenance

if TYPE_CHECKING:
    from altq.report.perplexity import Presentation


def add_table(parser: argparse.ArgumentParser) -> None:
    """--results, --output and the captions."""
    parser.add_argument("--results", type=Path, nargs="+", required=True, metavar="FILE", help="perplexity results")
    add_output(parser, ".csv file")
    add_options(parser, Captions)


def add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--zero-shot", type=Path, nargs="*", default=[], metavar="FILE", help="zero-shot results of the same"
    )


def add_selections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--selections", type=Path, nargs="+", required=True, metavar="FILE", help="their selections")


def run_table(
    command: str,
    arguments: argparse.Namespace,
    write: "Callable[[Presentation], None]",
    inputs: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Let `write` write the table as captions say, and beside it a .json with captions and provenance.

    inputs: what is read besides --results. options: what the command was told besides the captions.
    """
    captions = read_options(arguments, Captions)
    from altq.report.perplexity import Presentation
    from altq.runtime.files import write_json

    write(Presentation(**dict(captions)))
    record = provenance(command, options or {}, [*arguments.results, *inputs])
    write_json(arguments.output.with_suffix(".json"), {"captions": captions.model_dump(), "provenance": record})
