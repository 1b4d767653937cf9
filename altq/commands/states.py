"""Commands that record what the full-precision model holds: its hidden states, and the statistics of its weights."""

import argparse
from pathlib import Path

from altq.calibration.recording import record_states
from altq.commands.command import add_loss, add_model, add_output
from altq.commands.device import add_device
from altq.experiment.border_spacing import BorderOptions
from altq.models.context import check_context
from altq.runtime.files import write_json
from altq.runtime.flags import add_options, read_options
from altq.runtime.gpu import open_device
from altq.runtime.lineage import check_lineage, run_fingerprint
from altq.runtime.provenance import provenance, write_provenance
from altq.selection.weight_statistics import weight_statistics
from altq.sources.token_file import read_tokens


def states_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="calibration tokens (.npy)")
    add_loss(parser)
    add_options(parser, BorderOptions)
    add_device(parser)
    add_output(parser, "folder")


def states(arguments: argparse.Namespace) -> None:
    """Record the full-precision model's hidden states and second moments over the calibration tokens.

    Reads a model folder and a token array. Writes, to one folder, the hidden states at every sublayer border, the
    second moments of every site's input, and states.json last. Once per model and seed: no setting or kind needs its
    own. A run that was stopped goes on at the sublayer where it stopped. Where the disk has no room for all of them,
    or with --border-every K, it writes the states at one border of blocks in K and no moments, and goes on at the
    border that was written last; later stages compute again what lies between.

      altq states --model results/models/smollm2 --tokens results/tokens/smollm2/wikipedia/calibration-seed0.npy \\
          --loss relative --output results/states/smollm2/seed0
    """
    device = open_device(arguments.device, arguments.gpu_memory)
    options, inputs = {"loss": arguments.loss}, [arguments.model, arguments.tokens]
    check_lineage(inputs)
    tokens, _ = read_tokens(arguments.tokens, arguments.model)
    fingerprint = run_fingerprint("states", options, inputs)
    check_context(arguments.model, tokens.shape[1])
    record_states(
        arguments.model,
        tokens,
        loss=arguments.loss,
        folder=arguments.output,
        fingerprint=fingerprint,
        border_every=read_options(arguments, BorderOptions).border_every,
        device=device,
    )
    write_provenance(arguments.output, provenance("states", options, inputs, device))


def statistics_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_output(parser, ".json file")


def statistics(arguments: argparse.Namespace) -> None:
    """Measure the weights of every projection of a model: moments, excess kurtosis, largest value.

    Reads a model folder, a chunk of one tensor at a time. Writes a .json file with every sublayer's projections, from
    which `altq select --policy heuristic` chooses.

      altq statistics --model results/models/smollm2 --output results/statistics/smollm2.json
    """
    measured = weight_statistics(arguments.model)
    write_json(arguments.output, measured | {"provenance": provenance("statistics", {}, [arguments.model])})
