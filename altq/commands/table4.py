"""Write Table 4: the learned selection against the heuristic.

Reads the perplexities of the methods `learned` and `adaptive` and their selections. Writes the tidy table as CSV and,
beside it, one to read as .md, .tex and .png, and a .json with captions and provenance.

  altq table4 --results results/perplexity/smollm2/{learned,adaptive}/W3A3K3V3/gptq/seed0/*.json \\
      --selections results/selections/smollm2/heuristic.json results/selections/smollm2/W3A3K3V3/seed0/learned.json \\
      --output results/table4.csv
"""

import argparse

from altq.commands.command import add_output, add_results, add_selections
from altq.options import add_options, read_options
from altq.provenance import provenance
from altq.report.protocol import Captions


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    add_selections(parser)
    add_output(parser, ".csv file")
    add_options(parser, Captions)


def run(arguments: argparse.Namespace) -> None:
    captions = read_options(arguments, Captions)
    from altq.files import write_json
    from altq.report.perplexity import Presentation
    from altq.report.table4 import write_table4

    write_table4(arguments.results, arguments.selections, arguments.output, Presentation(**dict(captions)))
    record = provenance("table4", {}, [*arguments.results, *arguments.selections])
    write_json(arguments.output.with_suffix(".json"), {"captions": captions.model_dump(), "provenance": record})
