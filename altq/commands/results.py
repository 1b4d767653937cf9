"""Commands that look at results: print a table, check that all are whole."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from altq.report.perplexity import Presentation, read_tidy
from altq.report.protocol import Captions
from altq.report.table import to_terminal
from altq.runtime.files import read_json
from altq.runtime.integrity import Results, to_text


def show_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, nargs="?", default=Path("results/table2.csv"), help="the tidy table")


def show(arguments: argparse.Namespace) -> None:
    """Print a table of the results on the terminal.

    Reads a tidy table (results/table2.csv, results/cost.csv and so on) and the .json beside it, as its command wrote
    them.

      altq show results/table2.csv
    """
    for path in (arguments.csv, arguments.csv.with_suffix(".json")):
        if not path.is_file():
            raise ValueError(f"{path} is missing; `snakemake --cores all {arguments.csv}` makes it")
    record = read_json(arguments.csv.with_suffix(".json"))
    presentation = Presentation(**dict(Captions.model_validate(record.get("captions", {}))))
    wide_table = import_module(f"altq.report.{record['provenance']['command']}").wide_table
    print(to_terminal(wide_table(read_tidy(arguments.csv), presentation), ansi=sys.stdout.isatty()), end="")


def verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results"), help="results folder")


def verify(arguments: argparse.Namespace) -> None:
    """Check that results are whole and still what they were made from; exit with 1 where some are not.

    Reads every record under a results folder, and recomputes the hashes of all files and inputs that they name. Finds
    files that are cut off, incomplete folders, inputs that changed or are gone, and all that rests on such. Writes
    nothing; prints a line for each finding and the command that makes the files anew.

      altq verify results
    """
    results = Results(arguments.folder)
    findings = results.findings()
    print(to_text(findings), end="")
    if findings:
        wrong = len({finding.path for finding in findings})
        raise ValueError(
            f"{wrong} results are not what their records say, of {len(results.records())} that have one; delete them "
            "and run the workflow again, which makes what is missing and all that rests on it"
        )
    print(f"{len(results.records())} results are whole and what they were made from.")
