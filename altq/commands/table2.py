"""Write Table 2: perplexity of every method at every setting.

Reads the files that `altq perplexity` wrote. Writes the tidy table as CSV and, beside it, the paper's wide layout as
.md, .tex and .png, the protocol behind it, and a .json with provenance, from which `altq show` prints the table again.

  altq table2 --results results/perplexity/smollm2/*/*/*/*/*.json --output results/table2.csv
"""

import argparse

from altq.commands.tables import add_table, run_table


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_table(parser)


def run(arguments: argparse.Namespace) -> None:
    from altq.report.table2 import write_table2

    run_table("table2", arguments, lambda presentation: write_table2(arguments.results, arguments.output, presentation))
