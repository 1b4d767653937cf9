"""Draw Figure 1: kurtosis of each layer, and the kind that the differentiable search chose.

Reads the weights' statistics and the learned selections, which lie below
<model>/<setting>/seed<k>. Writes the figure as PDF and, beside it, as .png, the points as .csv, and a .json
with provenance.

  altq figure1 --statistics results/statistics/smollm2.json \\
      --selections results/selections/smollm2/*/seed0/learned.json --output results/figure1.pdf
"""

import argparse
from pathlib import Path

from altq.commands.command import add_output
from altq.options import add_options, read_options
from altq.provenance import provenance
from altq.selection.options import HeuristicOptions


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--statistics", type=Path, nargs="+", required=True, metavar="FILE", help="of every model")
    parser.add_argument(
        "--selections", type=Path, nargs="+", required=True, metavar="FILE", help="a row of panels each"
    )
    add_output(parser, ".pdf file")
    add_options(parser, HeuristicOptions)


def run(arguments: argparse.Namespace) -> None:
    options = read_options(arguments, HeuristicOptions)
    from altq.files import write_json
    from altq.report.figure1 import write_figure1

    write_figure1(arguments.statistics, arguments.selections, options, arguments.output)
    record = provenance("figure1", options.model_dump(), [*arguments.statistics, *arguments.selections])
    write_json(arguments.output.with_suffix(".json"), {"provenance": record})
