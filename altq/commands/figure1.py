"""Draw Figure 1: kurtosis of each layer, and the kind that the differentiable search chose.

Reads the weights' statistics and the learned selections, which lie below <model>/<setting>/seed<k>. Writes the figure
as PDF and, beside it, as .png, the points as .csv, the protocol behind it, and a .json with provenance.

  altq figure1 --statistics results/statistics/smollm2.json \\
      --selections results/selections/smollm2/*/seed0/learned.json --output results/figure1.pdf
"""

import argparse

from altq.commands.figures import add_figure, run_figure


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_figure(parser, "--selections")


def run(arguments: argparse.Namespace) -> None:
    from altq.report.figure1 import write_figure1

    run_figure("figure1", arguments, write_figure1)
