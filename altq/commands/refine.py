"""The command that refines a checkpoint."""

import argparse
from pathlib import Path

from altq.checkpoint.format import labels_of
from altq.commands.command import add_model, add_output
from altq.commands.device import add_device
from altq.experiment.methods import REFINED, unrefined
from altq.experiment.refinement import RefinementRecipe
from altq.refinement import refine as refinement
from altq.runtime.flags import add_options, read_options
from altq.runtime.gpu import open_device
from altq.runtime.lineage import check_lineage, run_fingerprint
from altq.runtime.provenance import provenance, write_provenance
from altq.sources.token_file import read_tokens


def refine_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FOLDER", help="checkpoint folder to refine")
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="tokens to train on (.npy)")
    parser.add_argument(
        "--held-out", type=Path, required=True, metavar="FILE", help="tokens beside them, which judge (.npy)"
    )
    parser.add_argument(
        "--method", metavar="NAME", help=f"what tables call it (default: the checkpoint's method and {REFINED})"
    )
    add_device(parser)
    add_output(parser, "checkpoint folder")
    add_options(parser, RefinementRecipe)


def refine(arguments: argparse.Namespace) -> None:
    """Refine a checkpoint: train the scales of its codes on the full-precision model's logits.

    Reads the model folder that a checkpoint was made of, the checkpoint, and windows of calibration text: those to train
    on, and held-out ones. Codes and transforms stay; the scale of each row of weights, the clipping factors of
    activations and cache, and the gains of norms are trained, which cost nothing at run time. The step with the lowest
    loss on the held-out windows is kept, or the checkpoint as it was. Writes another checkpoint folder,
    quantization.json last. A run that was stopped goes on at the step where it stopped.

      altq refine --model results/models/smollm2 --checkpoint results/checkpoints/smollm2/adaptive/W3A3K3V3/gptq/seed0 \\
          --tokens results/tokens/smollm2/wikipedia/refinement-seed0.npy \\
          --held-out results/tokens/smollm2/wikipedia/refinement_held_out-seed0.npy \\
          --output results/checkpoints/smollm2/adaptive_refined/W3A3K3V3/gptq/seed0
    """
    recipe, device = read_options(arguments, RefinementRecipe), open_device(arguments.device, arguments.gpu_memory)
    labels = labels_of(arguments.checkpoint)
    method = arguments.method or unrefined(labels["method"]) + REFINED
    options = labels | {"method": method, "refinement": recipe.model_dump(mode="json")}
    inputs = [arguments.model, arguments.checkpoint, arguments.tokens, arguments.held_out]
    check_lineage(inputs)
    (tokens, _), (held_out, _) = (read_tokens(path, arguments.model) for path in inputs[2:])
    outcome = refinement.refine(
        arguments.model,
        arguments.checkpoint,
        tokens=tokens,
        held_out=held_out,
        recipe=recipe,
        method=method,
        folder=arguments.output,
        fingerprint=run_fingerprint("refine", options, inputs),
        device=device,
    )
    write_provenance(arguments.output, provenance("refine", options, inputs, device) | {"refinement": outcome})
