"""Commands that draw the figures."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from altq.commands.command import add_output
from altq.experiment.policies import HeuristicOptions
from altq.report.figure1 import write_figure1
from altq.report.figure2 import write_figure2
from altq.report.presentation import Presentation, write_presented
from altq.report.protocol_table import PROTOCOL_FILES
from altq.runtime.consistency import require_consistency
from altq.runtime.flags import add_options, read_options
from altq.runtime.lineage import result_lineage
from altq.runtime.provenance import provenance

Write = Callable[[list[Path], list[Path], HeuristicOptions, Path, Presentation], None]
"""Writes a figure from statistics, the files that are drawn, the heuristic's options, the path and the presentation."""


def _add_figure(parser: argparse.ArgumentParser, drawn: str, beside: Sequence[str] = ()) -> None:
    """Add --statistics, the flag of the files that are drawn, --output, the heuristic's options and presentation.

    beside: what is written beside a figure besides what is for each.
    """
    parser.add_argument("--statistics", type=Path, nargs="+", required=True, metavar="FILE", help="of every model")
    parser.add_argument(
        drawn, type=Path, nargs="+", required=True, metavar="FILE", help="a row of panels each", dest="drawn"
    )
    add_output(parser, ".pdf file", beside=(".png", ".csv", ".json", *PROTOCOL_FILES, *beside))
    add_options(parser, HeuristicOptions)
    add_options(parser, Presentation)


def _draw(command: str, arguments: argparse.Namespace, write: Write) -> None:
    """Let `write` write the figure, and beside it a .json with provenance."""
    options, presentation = read_options(arguments, HeuristicOptions), read_options(arguments, Presentation)
    inputs = [*arguments.statistics, *arguments.drawn]
    require_consistency({path: result_lineage(path) for path in inputs})
    write(arguments.statistics, arguments.drawn, options, arguments.output, presentation)
    write_presented(arguments.output, presentation, provenance(command, options.model_dump(), inputs))


def figure1_flags(parser: argparse.ArgumentParser) -> None:
    _add_figure(parser, "--selections")


def figure1(arguments: argparse.Namespace) -> None:
    """Draw Figure 1: kurtosis of each layer, and the kind that the differentiable search chose.

    Reads the weights' statistics and the learned selections, which lie below <model>/<setting>/seed<k>. Writes the
    figure as PDF and, beside it, as .png, the points as .csv, the protocol behind it, and a .json with provenance.

      altq figure1 --statistics results/statistics/smollm2.json \\
          --selections results/selections/smollm2/*/seed0/learned.json --output results/figure1.pdf
    """
    _draw("figure1", arguments, write_figure1)


def figure2_flags(parser: argparse.ArgumentParser) -> None:
    _add_figure(parser, "--scores", beside=("-correlation.csv",))


def figure2(arguments: argparse.Namespace) -> None:
    """Draw Figure 2: the gain of rotation over affine at each sublayer, against its kurtosis.

    Reads the weights' statistics and the reconstruction errors that `altq reconstruction` wrote, which lie below
    <model>/<setting>/seed<k>. Writes the figure as PDF and, beside it, as .png, the points as .csv, their rank
    correlations as -correlation.csv, the protocol behind it, and a .json with provenance.

      altq figure2 --statistics results/statistics/smollm2.json \\
          --scores results/scores/smollm2/*/seed0/oracle/scores.json --output results/figure2.pdf
    """
    _draw("figure2", arguments, write_figure2)
