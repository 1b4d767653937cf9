"""Record the full-precision model's hidden states and second moments over the calibration tokens.

Reads a model folder and a token array. Writes, to one folder, the hidden states at every sublayer border, the second
moments of every site's input, and states.json last. Once per model and seed: no setting or kind needs its own. A run
that was stopped goes on at the sublayer where it stopped.

  altq states --model results/models/smollm2 --tokens results/tokens/smollm2/wikipedia/calibration-seed0.npy \\
      --loss relative --output results/states/smollm2/seed0
"""

import argparse
from pathlib import Path

from altq.commands.command import add_loss, add_model, add_output
from altq.runtime.provenance import identity, provenance, write_provenance


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="calibration tokens (.npy)")
    add_loss(parser)
    add_output(parser, "folder")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from altq.calibration.states import record_states

    options, inputs = {"loss": arguments.loss}, [arguments.model, arguments.tokens]
    made_from = identity("states", options, inputs)
    record_states(arguments.model, np.load(arguments.tokens), arguments.loss, arguments.output, made_from)
    write_provenance(arguments.output, provenance("states", options, inputs))
