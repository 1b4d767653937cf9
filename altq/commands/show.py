"""Print Table 2 on the terminal.

Reads results/table2.csv and the .json beside it, as `altq table2` wrote them.

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
            raise ValueError(f"{path} is missing; `snakemake --cores all results/table2.csv` makes it")
    from altq.files import read_json
    from altq.report.protocol import Captions
    from altq.report.table2 import Presentation, render_terminal

    captions = Captions.model_validate(read_json(arguments.csv.with_suffix(".json"))["captions"])
    print(render_terminal(arguments.csv, Presentation(**dict(captions)), ansi=sys.stdout.isatty()), end="")
