"""The command that assembles a checkpoint."""

import argparse
from pathlib import Path

from altq.calibration.bank import banks_by_kind
from altq.checkpoint import assembly
from altq.checkpoint.scheme import Scheme
from altq.commands.command import add_banks, add_model, add_output, add_setting, add_states
from altq.commands.device import add_device
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime.flags import add_options, read_options
from altq.runtime.gpu import open_device
from altq.runtime.lineage import check_lineage, run_fingerprint
from altq.runtime.provenance import provenance, write_provenance
from altq.selection.selection import Selection


def assemble_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    parser.add_argument("--selection", type=Path, required=True, metavar="FILE", help="kinds, one for each sublayer")
    add_banks(parser, "of each kind that the selection names")
    parser.add_argument("--method", metavar="NAME", help="what tables call it (default: the selection's policy)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="its calibration seed, for tables (0)")
    add_device(parser)
    add_output(parser, "checkpoint folder")
    add_options(parser, RoundingOptions)


def assemble(arguments: argparse.Namespace) -> None:
    """Assemble a quantized checkpoint from a selection and the bank.

    Reads a model folder, its states, a selection and the bank of every kind that the selection names. Rounds the
    weights by GPTQ or to nearest. Writes a checkpoint folder that can be evaluated alone, quantization.json last. A run
    that was stopped goes on at the sublayer where it stopped.

      altq assemble --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W3A3K3V3 \\
          --selection results/selections/smollm2/heuristic.json --weights gptq --method adaptive --seed 0 \\
          --banks results/bank/smollm2/W3A3K3V3/seed0/affine results/bank/smollm2/W3A3K3V3/seed0/rotation \\
          --output results/checkpoints/smollm2/adaptive/W3A3K3V3/gptq/seed0
    """
    setting, rounding = Setting.parse(arguments.setting), read_options(arguments, RoundingOptions)
    device = open_device(arguments.device, arguments.gpu_memory)
    options = {
        "setting": str(setting),
        "rounding": rounding.model_dump(),
        "method": arguments.method,
        "seed": arguments.seed,
    }
    inputs = [arguments.model, arguments.states, arguments.selection, *arguments.banks]
    check_lineage(inputs, {"setting": str(setting), "calibration seed": str(arguments.seed)})
    scheme = Scheme(
        selection=Selection.read(arguments.selection),
        setting=setting,
        rounding=rounding,
        banks=banks_by_kind(arguments.banks),
        method=arguments.method,
        seed=arguments.seed,
    )
    assembly.assemble(
        model_folder=arguments.model,
        states_folder=arguments.states,
        scheme=scheme,
        folder=arguments.output,
        fingerprint=run_fingerprint("assemble", options, inputs),
        device=device,
    )
    write_provenance(arguments.output, provenance("assemble", options, inputs, device))
