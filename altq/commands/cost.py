"""Write the cost of each checkpoint: seconds, processor seconds and peak memory of its stages.

Reads the history (provenance.json) of checkpoint folders, whose paths say what they are. Writes the tidy table as CSV
and, beside it, one to read as .md, .tex and .png, the protocol behind it, and a .json with provenance. A row has three
columns (seconds, processor seconds, MB of main memory) for each stage: calibration of the banks that the method reads
(0 where it reads none), the states, which all methods share, and assembly. A job that was stopped and went on counts
its last process only.

  altq cost --checkpoints results/checkpoints/smollm2/*/*/*/seed* --output results/cost.csv
"""

import argparse
from pathlib import Path

from altq.commands.command import add_output
from altq.report.presentation import Presentation
from altq.runtime.files import write_json
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import provenance, read_record


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=Path, nargs="+", required=True, metavar="FOLDER",
        help="checkpoint folders: checkpoints/<model>/<method>/<setting>/<weights>/seed<k>",
    )  # fmt: skip
    add_output(parser, ".csv file")
    add_options(parser, Presentation)


def run(arguments: argparse.Namespace) -> None:
    from altq.report.cost import write_cost

    presentation = read_options(arguments, Presentation)
    write_cost({folder: read_record(folder) for folder in arguments.checkpoints}, arguments.output, presentation)
    record = provenance("cost", {}, arguments.checkpoints)
    write_json(arguments.output.with_suffix(".json"), {"presentation": presentation.model_dump(), "provenance": record})
