"""Commands that choose a transformation kind for each sublayer, and find selections that choose alike."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from altq.commands.command import add_output
from altq.experiment.kinds import KINDS
from altq.experiment.policies import HeuristicOptions
from altq.runtime.consistency import require_consistency
from altq.runtime.files import write_json
from altq.runtime.flags import add_options, read_options
from altq.runtime.lineage import check_lineage, lineage, result_lineage
from altq.runtime.provenance import provenance
from altq.selection.description import read_statistics
from altq.selection.heuristic import heuristic_selection
from altq.selection.random import best_of, random_selection, read_result
from altq.selection.scores import Scores, best_selection
from altq.selection.selection import Selection, fixed_selection

Choice = tuple[Selection, dict[str, Any], list[Path]]
"""A selection, the options behind it, and the files that it was read from."""


def select_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", choices=(*KINDS, *POLICIES), required=True, metavar="POLICY", help="how to choose")
    parser.add_argument("--statistics", type=Path, metavar="FILE", help="what `altq statistics` wrote")
    parser.add_argument("--model-name", metavar="NAME", help="name of the model")
    parser.add_argument("--num-blocks", type=int, metavar="N", help="blocks of the model")
    parser.add_argument("--candidates", nargs="+", choices=KINDS, metavar="KIND", help="kinds to draw from")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the draw")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="scores of every candidate kind")
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="perplexities of random selections")
    parser.add_argument("--selections", type=Path, nargs="+", metavar="FILE", help="these random selections")
    add_output(parser, ".json file")
    add_options(parser, HeuristicOptions)


def select(arguments: argparse.Namespace) -> None:
    """Choose a transformation kind for each sublayer of a model.

    Policies:
      a kind        everywhere
      heuristic     rotation at both tails of the weights' kurtosis, affine between them (Eq. 8-15 of the paper); reads
                    what `altq statistics` wrote
      random        each candidate at an equal share of each half, drawn with --seed
      learned, oracle, probe, predicted
                    the kind with the best score at each sublayer; reads what `altq search`, `altq reconstruction` or
                    `altq predict` wrote
      best_random   the random selection with the lowest perplexity (the geometric mean over texts)
    Writes a selection: a .json file with the kinds and, for each sublayer, score and reason. Selections can be edited
    or written by hand; no selection needs a new calibration.

      altq select --policy heuristic --statistics results/statistics/smollm2.json \\
          --output results/selections/smollm2/heuristic.json
      altq select --policy affine --model-name smollm2 --num-blocks 30 --output results/selections/smollm2/affine.json
      altq select --policy random --seed 3 --candidates affine rotation --model-name smollm2 --num-blocks 30 \\
          --output results/selections/smollm2/random3.json
      altq select --policy oracle --scores results/scores/smollm2/W3A3K3V3/seed0/oracle/scores.json --output oracle.json
    """
    needed, choose = POLICIES.get(arguments.policy, (("model_name", "num_blocks"), _one_kind))
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"--policy {arguments.policy} needs {' and '.join(missing)}")
    selection, options, inputs = choose(arguments)
    require_consistency({path: lineage(path) | result_lineage(path) for path in inputs})
    replace(selection, provenance=provenance("select", options, inputs)).write(arguments.output)


def _one_kind(arguments: argparse.Namespace) -> Choice:
    options = {"policy": arguments.policy, "num_blocks": arguments.num_blocks}
    return fixed_selection(arguments.model_name, arguments.num_blocks, arguments.policy), options, []


def _heuristic(arguments: argparse.Namespace) -> Choice:
    options = read_options(arguments, HeuristicOptions)
    with _naming(arguments.statistics):
        selection = heuristic_selection(read_statistics(arguments.statistics), options)
    return selection, options.model_dump(), [arguments.statistics]


def _random(arguments: argparse.Namespace) -> Choice:
    options = {name: getattr(arguments, name) for name in ("num_blocks", "candidates", "seed")}
    return random_selection(arguments.model_name, **options), options, []


def _best(arguments: argparse.Namespace) -> Choice:
    with _naming(arguments.scores):
        return best_selection(arguments.policy, Scores.read(arguments.scores)), {}, [arguments.scores]


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let a ValueError name the file that a choice was read from, and what else can be done."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}; measure again, or choose by another policy") from error


def _best_random(arguments: argparse.Namespace) -> Choice:
    selections = {path.stem: Selection.read(path) for path in arguments.selections}
    best = best_of(map(read_result, arguments.results))
    if best not in selections:
        raise ValueError(f"the best of --results is {best}, which is not among --selections")
    chosen = replace(selections[best], policy=arguments.policy)
    return chosen, {"selection": best}, [*arguments.results, *arguments.selections]


POLICIES: dict[str, tuple[tuple[str, ...], Callable[[argparse.Namespace], Choice]]] = {
    "heuristic": (("statistics",), _heuristic),
    "random": (("model_name", "num_blocks", "candidates", "seed"), _random),
    **dict.fromkeys(("learned", "oracle", "probe", "predicted"), (("scores",), _best)),
    "best_random": (("results", "selections"), _best_random),
}
"""The flags that a policy needs, and how it chooses; any other policy is a kind."""


def distinct_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--selections", type=Path, nargs="+", required=True, metavar="FILE", help="selections")
    add_output(parser, ".json file")


def distinct(arguments: argparse.Namespace) -> None:
    """Find the selections that are the same, so that each is assembled once.

    Reads selection files. Writes a .json file whose `first` maps the name of each to the name of the first that chooses
    alike; a name is that of the file.

      altq distinct --selections results/selections/smollm2/heuristic.json results/selections/smollm2/grid*.json \\
          --output results/selections/smollm2/distinct.json
    """
    check_lineage(arguments.selections)
    first: dict[tuple[str, ...], str] = {}
    same = {path.stem: first.setdefault(Selection.read(path).kinds, path.stem) for path in arguments.selections}
    write_json(arguments.output, {"first": same, "provenance": provenance("distinct", {}, arguments.selections)})
