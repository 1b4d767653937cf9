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
    from altq.report.perplexity import Presentation, read_tidy
    from altq.report.protocol import Captions
    from altq.report.table import to_terminal
    from altq.runtime.files import read_json

    record = read_json(arguments.csv.with_suffix(".json"))
    presentation = Presentation(**dict(Captions.model_validate(record.get("captions", {}))))
    wide_table = import_module(f"altq.report.{record['provenance']['command']}").wide_table
    print(to_terminal(wide_table(read_tidy(arguments.csv), presentation), ansi=sys.stdout.isatty()), end="")
