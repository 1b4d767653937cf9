"""Write Table 6: the heuristic at other values of beta and L.

Reads the perplexities of the learned selection and of every distinct selection of the grid, these selections, and what
`altq distinct` wrote (its folder is named after the model). Writes the tidy table as CSV and, beside it, one to read as
.md, .tex and .png, the protocol behind it, and a .json with provenance.

  altq table6 --results results/perplexity/smollm2/{learned,adaptive,grid*}/W3A3K3V3/gptq/seed0/*.json \\
      --selections results/selections/smollm2/grid*.json results/selections/smollm2/W3A3K3V3/seed0/learned.json \\
      --distinct results/selections/smollm2/distinct.json --points "$(cat grid.json)" --output results/table6.csv
"""

import argparse
from pathlib import Path

from altq.commands.tables import add_selections, add_table, run_table
from altq.experiment.policies import Grid
from altq.report.presentation import Presentation
from altq.runtime.flags import add_options, read_options


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_table(parser)
    add_selections(parser)
    parser.add_argument(
        "--distinct", type=Path, nargs="+", required=True, metavar="FILE", help="which selections are the same"
    )
    add_options(parser, Grid)


def run(arguments: argparse.Namespace) -> None:
    grid = read_options(arguments, Grid)
    from altq.report.table6 import write_table6

    def write(presentation: Presentation) -> None:
        files = arguments.results, arguments.selections, arguments.distinct
        write_table6(*files, grid, arguments.output, presentation)

    run_table("table6", arguments, write, [*arguments.selections, *arguments.distinct], grid.model_dump())
