"""Find the selections that are the same, so that each is assembled once.

Reads selection files. Writes a .json file whose `first` maps the name of each to the name of the first that chooses
alike; a name is that of the file.

  altq distinct --selections results/selections/smollm2/heuristic.json results/selections/smollm2/grid*.json \\
      --output results/selections/smollm2/distinct.json
"""

import argparse
from pathlib import Path

from altq.commands.command import add_output
from altq.runtime.files import write_json
from altq.runtime.provenance import provenance
from altq.selection.selection import Selection


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--selections", type=Path, nargs="+", required=True, metavar="FILE", help="selections")
    add_output(parser, ".json file")


def run(arguments: argparse.Namespace) -> None:
    first: dict[tuple[str, ...], str] = {}
    same = {path.stem: first.setdefault(Selection.read(path).kinds, path.stem) for path in arguments.selections}
    write_json(arguments.output, {"first": same, "provenance": provenance("distinct", {}, arguments.selections)})
