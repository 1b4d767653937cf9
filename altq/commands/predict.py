"""Predict how well each kind quantizes from second moments alone: concentration and alignment, no training.

Reads a model folder and the states that `altq states` wrote. Writes a .json file with the signal-to-quantization-noise
ratio (in decibels, larger is better) of the closed-form start of every candidate kind at every sublayer, by which
`altq select --policy predicted` chooses.

  altq predict --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W3A3K3V3 --seed 0 \\
      --candidates affine rotation --output predicted.json
"""

import argparse

from altq.commands.command import add_candidates, add_model, add_output, add_setting, add_states
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    add_candidates(parser)
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of random starts")
    add_output(parser, ".json file")
    add_options(parser, Recipe)


def run(arguments: argparse.Namespace) -> None:
    setting, recipe = Setting.parse(arguments.setting), read_options(arguments, Recipe)
    from altq.selection.predicted import predict_model
    from altq.selection.scores import Scores

    what = (setting, arguments.seed, arguments.candidates, recipe)
    predicted = predict_model(arguments.model, arguments.states, *what)
    values = tuple({kind: prediction.sqnr for kind, prediction in of_kind.items()} for of_kind in predicted)
    made = {"setting": str(setting), "seed": arguments.seed, "recipe": recipe.model_dump()}
    record = provenance("predict", made, [arguments.model, arguments.states])
    Scores(arguments.model.resolve().name, "SQNR in dB", False, values, record).write(arguments.output)
