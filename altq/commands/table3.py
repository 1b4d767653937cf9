"""Write Table 3: zero-shot accuracy of every method.

Reads the files that `altq zero-shot` wrote. Writes the tidy table as CSV, with paired differences to the method
--reference, and, beside it, the paper's wide layout as .md, .tex and .png, the protocol behind it, and a .json with
provenance.

  altq table3 --results results/zero_shot/smollm2/*/*/*/*/*.json --reference flatquant --output results/table3.csv
"""

import argparse

from altq.commands.tables import add_table, run_table
from altq.experiment.methods import METHODS


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_table(parser)
    parser.add_argument(
        "--reference", choices=METHODS, required=True, metavar="METHOD", help="with which others are compared"
    )


def run(arguments: argparse.Namespace) -> None:
    from altq.report.table3 import write_table3

    options = {"reference": arguments.reference}
    run_table(
        "table3",
        arguments,
        lambda presentation: write_table3(arguments.results, arguments.output, arguments.reference, presentation),
        options=options,
    )
