"""Choose a transformation kind for each sublayer of a model.

--policy heuristic chooses rotation at both tails of the weights' kurtosis and affine between them (Eq. 8-15 of the
paper); it reads what `altq statistics` wrote. Any other policy is a kind, taken everywhere.
Writes a selection: a .json file with the kinds and, for each sublayer, score and reason. Selections can be edited
or written by hand; no selection needs a new calibration.

  altq select --policy heuristic --statistics results/statistics/smollm2.json \\
      --output results/selections/smollm2/heuristic.json
  altq select --policy affine --model-name smollm2 --num-blocks 30 --output results/selections/smollm2/affine.json
"""

import argparse
from dataclasses import replace
from pathlib import Path

from altq.commands.command import add_output
from altq.options import add_options, read_options
from altq.provenance import provenance
from altq.selection.options import HeuristicOptions
from altq.selection.selection import KINDS

HEURISTIC = "heuristic"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", choices=(HEURISTIC, *KINDS), required=True, help="how to choose")
    parser.add_argument("--statistics", type=Path, metavar="FILE", help="what `altq statistics` wrote, for heuristic")
    parser.add_argument("--model-name", metavar="NAME", help="name of the model, for one kind everywhere")
    parser.add_argument("--num-blocks", type=int, metavar="N", help="blocks of the model, for one kind everywhere")
    add_output(parser, ".json file")
    add_options(parser, HeuristicOptions)


def run(arguments: argparse.Namespace) -> None:
    options = read_options(arguments, HeuristicOptions)
    if arguments.policy == HEURISTIC:
        _select_by_heuristic(arguments, options)
    else:
        _select_one_kind(arguments)


def _select_by_heuristic(arguments: argparse.Namespace, options: HeuristicOptions) -> None:
    if arguments.statistics is None:
        raise ValueError("--policy heuristic needs --statistics, the file that `altq statistics` wrote")
    from altq.files import read_json
    from altq.selection.heuristic import heuristic_selection

    selection = heuristic_selection(read_json(arguments.statistics), options)
    record = provenance("select", options.model_dump(), [arguments.statistics])
    replace(selection, provenance=record).write(arguments.output)


def _select_one_kind(arguments: argparse.Namespace) -> None:
    if arguments.model_name is None or arguments.num_blocks is None:
        raise ValueError(f"--policy {arguments.policy} needs --model-name and --num-blocks")
    from altq.selection.fixed import fixed_selection

    selection = fixed_selection(arguments.model_name, arguments.num_blocks, arguments.policy)
    options = {"policy": arguments.policy, "num_blocks": arguments.num_blocks}
    replace(selection, provenance=provenance("select", options, [])).write(arguments.output)
