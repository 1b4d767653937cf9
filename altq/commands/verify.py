"""Check that results are whole and still what they were made from; exit with 1 where some are not.

Reads every record under a results folder, and recomputes the hashes of all files and inputs that they name.
Finds files that are cut off, incomplete folders, inputs that changed or are gone, and all that rests on such. Writes
nothing; prints a line for each finding and the command that makes the files anew.

  altq verify results
"""

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results"), help="results folder")


def run(arguments: argparse.Namespace) -> None:
    from altq.runtime.integrity import Results, to_text

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
