"""Measure the reconstruction error of calibrated sublayers on tokens that their calibration did not see.

Reads a model folder, held-out tokens and a bank of each candidate kind. Writes a .json file with the error of every
kind at every sublayer, by which `altq select` chooses (policies oracle and probe).

  altq reconstruction --model results/models/smollm2 --tokens results/tokens/smollm2/wikipedia/held_out-seed0.npy \\
      --bank affine=results/bank/smollm2/W3A3K3V3/seed0/affine --setting W3A3K3V3 --loss relative \\
      --bank rotation=results/bank/smollm2/W3A3K3V3/seed0/rotation --output oracle.json
"""

import argparse
from pathlib import Path

from altq.commands.command import add_banks, add_loss, add_model, add_output, add_setting
from altq.experiment.setting import Setting
from altq.runtime.provenance import provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="held-out tokens (.npy)")
    add_setting(parser)
    add_banks(parser, "once for each candidate")
    add_loss(parser)
    add_output(parser, ".json file")


def run(arguments: argparse.Namespace) -> None:
    setting, banks = Setting.parse(arguments.setting), dict(arguments.bank)
    import numpy as np

    from altq.selection.oracle import reconstruction_errors
    from altq.selection.scores import Scores

    errors = reconstruction_errors(arguments.model, np.load(arguments.tokens), banks, setting, arguments.loss)
    made = {"setting": str(setting), "loss": arguments.loss}
    record = provenance("reconstruction", made, [arguments.model, arguments.tokens, *banks.values()])
    Scores(arguments.model.resolve().name, "reconstruction error", True, tuple(errors), record).write(arguments.output)
