"""Write Table 2: perplexity of every method at every setting.

Reads the files that `altq perplexity` wrote. Writes the tidy table as CSV and, beside it, the paper's wide layout as
.md, .tex and .png, and a .json with captions and provenance, from which `altq show` prints the table again.

  altq table2 --results results/perplexity/smollm2/*/*/*/*/*.json --output results/table2.csv
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
    from altq.report.table2 import write_table2

    write_table2(arguments.results, arguments.output, Presentation(**dict(captions)))
    record = provenance("table2", {}, arguments.results)
    write_json(arguments.output.with_suffix(".json"), {"captions": captions.model_dump(), "provenance": record})
