"""Write Table 4: the learned selection against the heuristic.

Reads the perplexities of the methods `learned` and `adaptive` and their selections; and, for its average, what `altq
zero-shot` wrote of them. Writes the tidy table as CSV and, beside it, one to read as .md, .tex and .png, and a .json with
captions and provenance.

  altq table4 --results results/perplexity/smollm2/{learned,adaptive}/W3A3K3V3/gptq/seed0/*.json \\
      --selections results/selections/smollm2/heuristic.json results/selections/smollm2/W3A3K3V3/seed0/learned.json \\
      --output results/table4.csv
"""

import argparse

from altq.commands.tables import add_selections, add_table, add_zero_shot, run_table


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_table(parser)
    add_zero_shot(parser)
    add_selections(parser)


def run(arguments: argparse.Namespace) -> None:
    from altq.report.table4 import write_table4

    def write(shown) -> None:
        write_table4(arguments.results, arguments.zero_shot, arguments.selections, arguments.output, shown)

    run_table("table4", arguments, write, [*arguments.zero_shot, *arguments.selections])
