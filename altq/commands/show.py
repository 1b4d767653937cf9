"""Print a table of the results on the terminal.

Reads a tidy table (results/table2.csv, results/cost.csv and so on) and the .json beside it, as its command wrote them.

  altq show results/table2.csv
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, nargs="?", default=Path("results/table2.csv"), help="the tidy table")


def run(arguments: argparse.Namespace) -> None:
    for path in (arguments.csv, arguments.csv.with_suffix(".json")):
        if not path.is_file():
            raise ValueError(f"{path} is missing; `snakemake --cores all {arguments.csv}` makes it")
        from altq.report.presentation import Presentation
    from altq.report.protocol_table import protocol_file
    from altq.report.table import to_terminal
    from altq.report.table_files import read_tidy
    from altq.runtime.files import read_json

    record = read_json(arguments.csv.with_suffix(".json"))
    if "presentation" not in record:
        raise ValueError(f"{arguments.csv} was written by another version of altq; make it again")
    presentation = Presentation.model_validate(record["presentation"])
    wide_table = import_module(f"altq.report.{record['provenance']['command']}").wide_table
    table, protocol = wide_table(read_tidy(arguments.csv), presentation), protocol_file(arguments.csv)
    print(to_terminal(table, str(protocol), ansi=sys.stdout.isatty()), end="")
