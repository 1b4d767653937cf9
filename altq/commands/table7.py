"""Write Table 7: every policy on every setting, over calibration seeds, with paired differences to affine everywhere.

Reads the files that `altq perplexity` wrote, of three calibration seeds or more. Writes the tidy table as CSV and,
beside it, one to read as .md, .tex and .png, and a .json with captions and provenance.

  altq table7 --results results/perplexity/smollm2/{affine,rotation,adaptive,oracle}/*/gptq/seed*/*.json \\
      --output results/table7.csv
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
    from altq.report.table7 import write_table7

    write_table7(arguments.results, arguments.output, Presentation(**dict(captions)))
    record = provenance("table7", {}, arguments.results)
    write_json(arguments.output.with_suffix(".json"), {"captions": captions.model_dump(), "provenance": record})
