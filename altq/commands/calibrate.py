"""Commands that calibrate a bank: unit by unit, or end to end through the whole model."""

import argparse
from pathlib import Path

from altq.calibration import end_to_end
from altq.calibration.by_unit import calibrate_bank
from altq.calibration.fitting import Fitting
from altq.calibration.shard import WHOLE, Shard
from altq.calibration.subject import Subject
from altq.commands.command import add_model, add_output, add_seed, add_setting, add_states
from altq.commands.device import add_device
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.kinds import KINDS
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.runtime.files import read_json, write_json
from altq.runtime.flags import add_options, read_options
from altq.runtime.gpu import open_device
from altq.runtime.lineage import check_lineage, run_fingerprint
from altq.runtime.provenance import provenance, write_provenance


def calibrate_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    parser.add_argument("--kind", choices=KINDS, required=True, help="kind of transformation at qkv and gate_up")
    add_seed(parser, "random starts and batches")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--shard", metavar="K/N", help="calibrate the Kth of N ranges of sublayers alone")
    one.add_argument("--shards", type=Path, nargs="*", default=[], metavar="FILE", help="what all shards wrote")
    add_device(parser)
    add_output(parser, "folder", own=("shards",))
    add_options(parser, Recipe)


def calibrate(arguments: argparse.Namespace) -> None:
    """Calibrate every sublayer of a model for one kind of transformation: its entry in the bank.

    Reads a model folder and the states that `altq states` wrote. Writes, to one folder, a file for each sublayer with
    its transforms and clipping factors, and index.json last. A run that was stopped goes on at the sublayer where it
    stopped; what was made otherwise (another recipe, other states) is made again. --shard 2/8 calibrates the second of
    eight ranges of sublayers alone and writes shards/2-of-8.json in place of the index; when all are done, the same
    command without --shard, with --shards and their files, writes the index.

      altq calibrate --model results/models/smollm2 --states results/states/smollm2/seed0 --setting W3A3K3V3 \\
          --kind affine --seed 0 --steps 8 --output results/bank/smollm2/W3A3K3V3/seed0/affine
    """
    setting, recipe = Setting.parse(arguments.setting), read_options(arguments, Recipe)
    fitting = Fitting(setting, kind=arguments.kind, seed=arguments.seed, recipe=recipe)
    device = open_device(arguments.device, arguments.gpu_memory)
    shard = Shard.parse(arguments.shard) if arguments.shard else WHOLE
    inputs = [arguments.model, arguments.states]
    check_lineage(inputs)
    # Of the states an entry's own fingerprint has what it reads.
    fingerprint = run_fingerprint("calibrate", {}, [arguments.model])
    subject = Subject.open(arguments.model, arguments.states, device=device)
    calibrate_bank(subject, fitting, folder=arguments.output, fingerprint=fingerprint, shard=shard)
    options = {"setting": str(setting), "kind": arguments.kind, "seed": arguments.seed, "recipe": recipe.model_dump()}
    record = provenance("calibrate", options, inputs, device)
    if shard != WHOLE:
        write_json(arguments.output / "shards" / f"{shard.number}-of-{shard.count}.json", record)
        return
    # The bank took what its shards took, and at its peak what the largest of them did.
    records = [record, *map(read_json, arguments.shards)]
    record |= {name: sum(part[name] for part in records) for name in ("seconds", "processor_seconds")}
    record["peak_memory"] = max(part["peak_memory"] for part in records)
    write_provenance(arguments.output, record)


def calibrate_end_to_end_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_states(parser)
    add_setting(parser)
    add_seed(parser, "random signs and matrices")
    add_device(parser)
    add_output(parser, "folder")
    add_options(parser, EndToEndRecipe)


def calibrate_end_to_end(arguments: argparse.Namespace) -> None:
    """Fit a rotation of the residual stream, and what goes with it in every sublayer, through the whole model.

    Reads a model folder and the states that `altq states` wrote. Writes a bank to one folder: the rotation, a file for
    each sublayer, and index.json last. A run that was stopped goes on at the step where it stopped. QuaRot takes no
    step, SpinQuant trains rotations on the next token, OSTQuant rotations and scalings on the full-precision model's
    logits.

      altq calibrate-end-to-end --model results/models/smollm2 --states results/states/smollm2/seed0 \\
          --setting W4A4K4V4 --seed 0 --trained '["residual", "value"]' --steps 8 \\
          --output results/bank/smollm2/W4A4K4V4/seed0/spinquant
    """
    setting, recipe = Setting.parse(arguments.setting), read_options(arguments, EndToEndRecipe)
    device = open_device(arguments.device, arguments.gpu_memory)
    inputs = [arguments.model, arguments.states]
    check_lineage(inputs)
    fingerprint = run_fingerprint("calibrate-end-to-end", {}, [arguments.model])
    end_to_end.calibrate_end_to_end(
        model_folder=arguments.model,
        states_folder=arguments.states,
        fitting=Fitting.end_to_end(setting=setting, seed=arguments.seed, recipe=recipe),
        folder=arguments.output,
        fingerprint=fingerprint,
        device=device,
    )
    options = {"setting": str(setting), "seed": arguments.seed, "recipe": recipe.model_dump()}
    write_provenance(arguments.output, provenance("calibrate-end-to-end", options, inputs, device))
