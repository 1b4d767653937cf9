"""Write Table 7: every policy on every setting, over calibration seeds, with paired differences to affine everywhere.

Reads the files that `altq perplexity` and, for its average, `altq zero-shot` wrote, of three calibration seeds or more.
Writes the tidy table as CSV and, beside it, one to read as .md, .tex and .png, and a .json with captions and provenance.

  altq table7 --results results/perplexity/smollm2/{affine,rotation,adaptive,oracle}/*/gptq/seed*/*.json \\
      --output results/table7.csv
"""

import argparse

from altq.commands.tables import add_table, add_zero_shot, run_table


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_table(parser)
    add_zero_shot(parser)


def run(arguments: argparse.Namespace) -> None:
    from altq.report.table7 import write_table7

    def write(shown) -> None:
        write_table7(arguments.results, arguments.zero_shot, arguments.output, shown)

    run_table("table7", arguments, write, arguments.zero_shot)
