"""The flags and the run of the commands that draw a figure."""

import argparse
from collections.abc import Callable
from pathlib import Path

from altq.commands.command import add_output
from altq.experiment.policies import HeuristicOptions
from altq.report.presentation import Presentation
from altq.runtime.files import write_json
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import provenance

Write = Callable[[list[Path], list[Path], HeuristicOptions, Path, Presentation], None]
"""Writes a figure from statistics, the files that are drawn, the heuristic's options, the path and the presentation."""


def add_figure(parser: argparse.ArgumentParser, drawn: str) -> None:
    """Add --statistics, the flag of the files that are drawn, --output, the heuristic's options and presentation."""
    parser.add_argument("--statistics", type=Path, nargs="+", required=True, metavar="FILE", help="of every model")
    parser.add_argument(
        drawn, type=Path, nargs="+", required=True, metavar="FILE", help="a row of panels each", dest="drawn"
    )
    add_output(parser, ".pdf file")
    add_options(parser, HeuristicOptions)
    add_options(parser, Presentation)


def run_figure(command: str, arguments: argparse.Namespace, write: Write) -> None:
    """Let `write` write the figure, and beside it a .json with provenance."""
    options, presentation = read_options(arguments, HeuristicOptions), read_options(arguments, Presentation)
    write(arguments.statistics, arguments.drawn, options, arguments.output, presentation)
    record = provenance(command, options.model_dump(), [*arguments.statistics, *arguments.drawn])
    write_json(arguments.output.with_suffix(".json"), {"presentation": presentation.model_dump(), "provenance": record})
