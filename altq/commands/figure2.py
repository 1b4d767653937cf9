"""Draw Figure 2: the gain of rotation over affine at each sublayer, against its kurtosis.

Reads the weights' statistics and the reconstruction errors that `altq reconstruction` wrote, which lie below
<model>/<setting>/seed<k>. Writes the figure as PDF and, beside it, as .png, the points as .csv, their rank correlations
as -correlation.csv, the protocol behind it, and a .json with provenance.

  altq figure2 --statistics results/statistics/smollm2.json \\
      --scores results/scores/smollm2/*/seed0/oracle/scores.json --output results/figure2.pdf
"""

import argparse

from altq.commands.figures import add_figure, run_figure


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_figure(parser, "--scores")


def run(arguments: argparse.Namespace) -> None:
    from altq.report.figure2 import write_figure2

    run_figure("figure2", arguments, write_figure2)
