"""What the commands that draw figures share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from altq.commands.command import add_output
from altq.experiment.policies import HeuristicOptions
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import provenance

Write = Callable[[list[Path], list[Path], HeuristicOptions, Path], None]
"""Writes a figure from statistics, what is drawn of each model and setting, the heuristic's options and the path."""


def add_figure(parser: argparse.ArgumentParser, drawn: str) -> None:
    """--statistics, the flag of the files that are drawn, --output and the heuristic's options."""
    parser.add_argument("--statistics", type=Path, nargs="+", required=True, metavar="FILE", help="of every model")
    parser.add_argument(
        drawn, type=Path, nargs="+", required=True, metavar="FILE", help="a row of panels each", dest="drawn"
    )
    add_output(parser, ".pdf file")
    add_options(parser, HeuristicOptions)


def run_figure(command: str, arguments: argparse.Namespace, write: Write) -> None:
    """Let `write` write the figure, and beside it a .json with provenance."""
    options = read_options(arguments, HeuristicOptions)
    from altq.runtime.files import write_json

    write(arguments.statistics, arguments.drawn, options, arguments.output)
    record = provenance(command, options.model_dump(), [*arguments.statistics, *arguments.drawn])
    write_json(arguments.output.with_suffix(".json"), {"provenance": record})
