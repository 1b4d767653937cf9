"""Write Table 6: the heuristic at other values of beta and L.

Reads the perplexities of the learned selection and of every distinct selection of the grid, these selections, and what
`altq distinct` wrote (its folder is named after the model). Writes the tidy table as CSV and, beside it, one to read as
.md, .tex and .png, and a .json with captions and provenance.

  altq table6 --results results/perplexity/smollm2/{learned,adaptive,grid*}/W3A3K3V3/gptq/seed0/*.json \\
      --selections results/selections/smollm2/grid*.json results/selections/smollm2/W3A3K3V3/seed0/learned.json \\
      --distinct results/selections/smollm2/distinct.json --points "$(cat grid.json)" --output results/table6.csv
"""

import argparse
from pathlib import Path

from altq.commands.command import add_output, add_results, add_selections
from altq.options import add_options, read_options
from altq.provenance import provenance
from altq.report.protocol import Captions
from altq.selection.options import Grid


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    add_selections(parser)
    parser.add_argument(
        "--distinct", type=Path, nargs="+", required=True, metavar="FILE", help="which selections are the same"
    )
    add_output(parser, ".csv file")
    add_options(parser, Grid)
    add_options(parser, Captions)


def run(arguments: argparse.Namespace) -> None:
    captions, grid = read_options(arguments, Captions), read_options(arguments, Grid)
    from altq.files import write_json
    from altq.report.perplexity import Presentation
    from altq.report.table6 import write_table6

    files = arguments.results, arguments.selections, arguments.distinct
    write_table6(*files, grid, arguments.output, Presentation(**dict(captions)))
    record = provenance("table6", grid.model_dump(), [*arguments.results, *arguments.selections])
    write_json(arguments.output.with_suffix(".json"), {"captions": captions.model_dump(), "provenance": record})
