"""Write Table 1: one kind everywhere against random selections.

Reads the files that `altq perplexity` and, for its average, `altq zero-shot` wrote. Writes the tidy table as CSV, a row
for every selection and text, and, beside it, the paper's summary as .md, .tex and .png, the protocol behind it, and a
.json with provenance.

  altq table1 --results results/perplexity/smollm2/{full,affine,rotation,random*}/*/*/seed0/*.json \\
      --output results/table1.csv
"""

import argparse

from altq.commands.tables import add_table, add_zero_shot, run_table
from altq.report.presentation import Presentation


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_table(parser)
    add_zero_shot(parser)


def run(arguments: argparse.Namespace) -> None:
    from altq.report.table1 import write_table1

    def write(presentation: Presentation) -> None:
        write_table1(arguments.results, arguments.zero_shot, arguments.output, presentation)

    run_table("table1", arguments, write, arguments.zero_shot)
