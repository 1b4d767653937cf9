"""Write Table 5: how fast the kernels are.

Reads the measurements that `altq benchmark` wrote, on a CPU and perhaps on a GPU. Writes the tidy table as CSV and,
beside it, one to read as .md, .tex and .png, the protocol behind it, and a .json with provenance.

  altq table5 --results results/kernels/benchmark.csv --output results/table5.csv
"""

import argparse

from altq.commands.tables import add_table, run_table


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_table(parser)


def run(arguments: argparse.Namespace) -> None:
    from altq.report.table5 import write_table5

    run_table("table5", arguments, lambda presentation: write_table5(arguments.results, arguments.output, presentation))
