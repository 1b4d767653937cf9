"""Measure the weights of every projection of a model: moments, excess kurtosis, largest value.

Reads a model folder, a chunk of one tensor at a time. Writes a .json file with every sublayer's projections, from
which `altq select --policy heuristic` chooses.

  altq statistics --model results/models/smollm2 --output results/statistics/smollm2.json
"""

import argparse

from altq.commands.command import add_model, add_output
from altq.runtime.provenance import provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_output(parser, ".json file")


def run(arguments: argparse.Namespace) -> None:
    from altq.runtime.files import write_json
    from altq.selection.weight_statistics import weight_statistics

    statistics = weight_statistics(arguments.model)
    write_json(arguments.output, statistics | {"provenance": provenance("statistics", {}, [arguments.model])})
