"""Print a table of the results on the terminal.

Reads results/table2.csv or results/cost.csv, and the .json beside it, as `altq table2` and `altq cost` wrote them.

  altq show results/table2.csv
"""

import argparse
import sys
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, nargs="?", default=Path("results/table2.csv"), help="the tidy table")


def run(arguments: argparse.Namespace) -> None:
    for path in (arguments.csv, arguments.csv.with_suffix(".json")):
        if not path.is_file():
            raise ValueError(f"{path} is missing; `snakemake --cores all {arguments.csv}` makes it")
    from altq.files import read_json
    from altq.report import cost, table2
    from altq.report.protocol import Captions

    record = read_json(arguments.csv.with_suffix(".json"))
    if record["provenance"]["command"] == "cost":
        text = cost.render_terminal(arguments.csv)
    else:
        presentation = table2.Presentation(**dict(Captions.model_validate(record["captions"])))
        text = table2.render_terminal(arguments.csv, presentation, ansi=sys.stdout.isatty())
    print(text, end="")
