"""Draw Figure 2: what rotation gains over affine at each sublayer, against its kurtosis.

Reads the weights' statistics and the reconstruction errors that `altq reconstruction` wrote, which lie below
<model>/<setting>/seed<k>. Writes the figure as PDF and, beside it, as .png, the points as .csv, their rank correlations
as -correlation.csv, and a .json with provenance.

  altq figure2 --statistics results/statistics/smollm2.json \\
      --scores results/scores/smollm2/*/seed0/oracle/scores.json --output results/figure2.pdf
"""

import argparse
from pathlib import Path

from altq.commands.command import add_output
from altq.options import add_options, read_options
from altq.provenance import provenance
from altq.selection.options import HeuristicOptions


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--statistics", type=Path, nargs="+", required=True, metavar="FILE", help="of every model")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, metavar="FILE", help="a row of panels each")
    add_output(parser, ".pdf file")
    add_options(parser, HeuristicOptions)


def run(arguments: argparse.Namespace) -> None:
    options = read_options(arguments, HeuristicOptions)
    from altq.files import write_json
    from altq.report.figure2 import write_figure2

    write_figure2(arguments.statistics, arguments.scores, options, arguments.output)
    record = provenance("figure2", options.model_dump(), [*arguments.statistics, *arguments.scores])
    write_json(arguments.output.with_suffix(".json"), {"provenance": record})
