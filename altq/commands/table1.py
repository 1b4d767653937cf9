"""Write Table 1: one kind everywhere against random selections.

Reads the files that `altq perplexity` wrote. Writes the tidy table as CSV, a row for every selection and text, and,
beside it, the paper's summary as .md, .tex and .png, and a .json with captions and provenance.

  altq table1 --results results/perplexity/smollm2/{full,affine,rotation,random*}/*/*/seed0/*.json \\
      --output results/table1.csv
"""

import argparse

from altq.commands.command import add_output, add_results
from altq.options import add_options, read_options
from altq.provenance import provenance
from altq.report.protocol import Captions


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    add_output(parser, ".csv file")
    add_options(parser, Captions)


def run(arguments: argparse.Namespace) -> None:
    captions = read_options(arguments, Captions)
    from altq.files import write_json
    from altq.report.perplexity import Presentation
    from altq.report.table1 import write_table1

    write_table1(arguments.results, arguments.output, Presentation(**dict(captions)))
    record = provenance("table1", {}, arguments.results)
    write_json(arguments.output.with_suffix(".json"), {"captions": captions.model_dump(), "provenance": record})
