"""Search the best kind of each sublayer by gradients: a softmax mixture of candidates (Eq. 5-7 of the paper).

Reads a model folder and the states that `altq states` wrote. Writes, to one folder, a file for each sublayer, curve.csv
(pi, reconstruction error and entropy over the steps) and scores.json, last: pi at the end, by which `altq select
--policy learned` chooses. A search that was stopped goes on at the sublayer where it stopped. Transforms start and
learn as in `altq calibrate`, whose options these are; they are not kept, since the bank has them.

  altq search --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W3A3K3V3 --seed 0 \\
      --candidates affine rotation --search '{"steps": 16}' --output results/scores/smollm2/W3A3K3V3/seed0/learned
"""

import argparse

from altq.commands.command import add_candidates, add_model, add_output, add_setting, add_states
from altq.experiment.policies import SearchOptions
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.runtime.code_hash import code_hash
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    add_candidates(parser)
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of random starts")
    parser.add_argument(
        "--search",
        default="{}",
        metavar="JSON",
        help=f"what is not default of: {', '.join(SearchOptions.model_fields)}",
    )
    add_output(parser, "folder")
    add_options(parser, Recipe)


def run(arguments: argparse.Namespace) -> None:
    setting, recipe = Setting.parse(arguments.setting), read_options(arguments, Recipe)
    options = SearchOptions.model_validate_json(arguments.search)
    from altq.runtime.files import write_text
    from altq.selection.learned import curve, search_model, searched_seconds
    from altq.selection.scores import Scores

    what = (setting, arguments.seed, arguments.candidates, recipe, options)
    traces = search_model(arguments.model, arguments.states, *what, arguments.output, code_hash(__name__))
    write_text(arguments.output / "curve.csv", curve(arguments.candidates, traces))
    made = {
        "setting": str(setting),
        "seed": arguments.seed,
        "search": options.model_dump(),
        "recipe": recipe.model_dump(),
    }
    record = provenance("search", made, [arguments.model, arguments.states])
    # A search that went on where it was stopped took longer than its last process.
    record["processor_seconds"] = max(record["processor_seconds"], searched_seconds(arguments.output))
    scores = Scores(
        model=arguments.model.resolve().name,
        quantity="pi",
        lower_is_better=False,
        values=tuple(dict(zip(arguments.candidates, trace.pi[-1])) for trace in traces),
        provenance=record,
    )
    scores.write(arguments.output / "scores.json")
