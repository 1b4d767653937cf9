"""Assemble a quantized checkpoint from a selection and the bank.

Reads a model folder, its states, a selection and the bank of every kind that the selection names. Rounds the weights
by GPTQ or to nearest. Writes a checkpoint folder that can be evaluated alone, quantization.json last. A run
that was stopped goes on at the sublayer where it stopped.

  altq assemble --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W3A3K3V3 \\
      --selection results/selections/smollm2/heuristic.json --weights gptq \\
      --bank affine=results/bank/smollm2/W3A3K3V3/seed0/affine \\
      --bank rotation=results/bank/smollm2/W3A3K3V3/seed0/rotation \\
      --output results/checkpoints/smollm2/adaptive/W3A3K3V3/gptq/seed0
"""

import argparse
from pathlib import Path

from altq.commands.command import add_banks, add_model, add_output, add_setting, add_states
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime.flags import add_options, read_options
from altq.runtime.provenance import identity, provenance, write_provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    parser.add_argument("--selection", type=Path, required=True, metavar="FILE", help="kinds, one for each sublayer")
    add_banks(parser, "once for each kind that the selection names")
    add_output(parser, "checkpoint folder")
    add_options(parser, RoundingOptions)


def run(arguments: argparse.Namespace) -> None:
    setting, rounding = Setting.parse(arguments.setting), read_options(arguments, RoundingOptions)
    banks = dict(arguments.bank)
    from altq.checkpoint.assembly import assemble

    options = {"setting": str(setting), "rounding": rounding.model_dump()}
    inputs = [arguments.model, arguments.states, arguments.selection, *banks.values()]
    made_from = identity("assemble", options, inputs)
    places = arguments.model, arguments.states, arguments.selection, banks
    assemble(*places, setting, rounding, arguments.output, made_from)
    write_provenance(arguments.output, provenance("assemble", options, inputs))
