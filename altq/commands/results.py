"""Commands that look at results: print a table, check that all are whole."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

from altq.report.presentation import Presentation
from altq.report.protocol_table import protocol_file
from altq.report.table import to_terminal
from altq.report.table_files import read_tidy
from altq.runtime.documents import Record, read_described
from altq.runtime.integrity import Results, to_text

REMEDY = "make the table again"


class _TableHistory(Record):
    """Which command wrote a table."""

    command: Literal["table1", "table2", "table3", "table4", "table5", "table6", "table7", "cost"]


class _TableRecord(Record):
    """What lies beside a table: how it is presented, and its history."""

    presentation: Presentation
    provenance: _TableHistory


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
    record = read_described(arguments.csv.with_suffix(".json"), _TableRecord, REMEDY)
    wide_table = import_module(f"altq.report.{record.provenance.command}").wide_table
    try:
        table = wide_table(read_tidy(arguments.csv), record.presentation)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # a column that is not there, or no numbers
        raise ValueError(f"{arguments.csv} is not such a table ({type(error).__name__}: {error}); {REMEDY}") from error
    print(to_terminal(table, str(protocol_file(arguments.csv)), ansi=sys.stdout.isatty()), end="")


def verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results"), help="results folder")


def verify(arguments: argparse.Namespace) -> None:
    """Check that results are whole and still what they were made from; exit with 1 where some are not.

    Reads every record under a results folder, and recomputes the hashes of all files and inputs that they name. Finds
    files that are cut off, incomplete folders, inputs that changed or are gone, and all that rests on such. An input
    that was not below the working directory is recorded without its place, and is named and not looked at. Writes
    nothing; prints a line for each finding and the command that makes the files anew.

      altq verify results
    """
    results = Results(arguments.folder)
    findings = results.findings()
    print(to_text(findings), end="")
    if findings:
        wrong = {finding.path for finding in findings if not finding.is_elsewhere}
        if not wrong:
            raise ValueError(
                f"what {len(findings)} results were made from is not where it was; the results themselves are whole, so "
                "keep them: put their inputs back, or verify the folder that has both"
            )
        raise ValueError(
            f"{len(wrong)} results are not what their records say, of {len(results.records())} that have one; delete "
            "them and run the workflow again, which makes what is missing and all that rests on it"
        )
    print(f"{len(results.records())} results are whole and what they were made from.")
    if unseen := results.not_looked_at():
        print(f"Not looked at, since records do not say where they are: {', '.join(unseen)}.")
