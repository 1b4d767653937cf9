"""Fit a rotation of the residual stream, and what goes with it in every sublayer, through the whole model.

Reads a model folder and the states that `altq states` wrote. Writes a bank to one folder: the rotation, a file for each
sublayer, and index.json last. A run that was stopped goes on at the step where it stopped. QuaRot takes no step,
SpinQuant trains rotations on the next token, OSTQuant rotations and scalings on the full-precision model's logits.

  altq calibrate-end-to-end --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W4A4K4V4 \\
      --seed 0 --trained '["residual", "value"]' --steps 8 --output results/bank/smollm2/W4A4K4V4/seed0/spinquant
"""

import argparse

from altq.commands.command import add_model, add_output, add_setting, add_states
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.setting import Setting
from altq.runtime.code_hash import code_hash
from altq.runtime.flags import add_options, read_options
from altq.runtime.gpu import claim_gpu
from altq.runtime.provenance import provenance, write_provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="seed of random signs and matrices")
    add_output(parser, "folder")
    add_options(parser, EndToEndRecipe)


def run(arguments: argparse.Namespace) -> None:
    setting, recipe = Setting.parse(arguments.setting), read_options(arguments, EndToEndRecipe)
    claim_gpu()
    from altq.calibration.end_to_end import calibrate_end_to_end

    what = (setting, arguments.seed, recipe)
    calibrate_end_to_end(arguments.model, arguments.states, *what, arguments.output, code_hash(__name__))
    options = {"setting": str(setting), "seed": arguments.seed, "recipe": recipe.model_dump()}
    inputs = [arguments.model, arguments.states]
    write_provenance(arguments.output, provenance("calibrate-end-to-end", options, inputs))
