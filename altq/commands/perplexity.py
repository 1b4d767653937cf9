"""Measure the perplexity of a model or checkpoint over windows of tokens.

Reads a model folder or a checkpoint folder, and test tokens. Writes a .json file: each window's summed negative
log-likelihood, the perplexity exp(mean over all predicted tokens), its 95 % bootstrap interval over windows, and how
all of it was made. A run that was stopped goes on at the block of the model where it stopped. --method, --setting,
--weights and --seed say what is evaluated; they are written, not acted on.

  altq perplexity --folder results/checkpoints/smollm2/affine/W4A4K4V4/gptq/seed0 --method affine --setting W4A4K4V4 \\
      --weights gptq --seed 0 --tokens results/tokens/smollm2/pydoc/test.npy --output affine-pydoc.json
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from altq.commands.command import add_evaluated, add_output, read_evaluated
from altq.runtime.provenance import identity, provenance

BOOTSTRAP_SEED = 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_evaluated(parser)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="test tokens (.npy)")
    add_output(parser, ".json file")


def run(arguments: argparse.Namespace) -> None:
    from altq.checkpoint.quantized_model import open_model

    measure(arguments, open_model, "perplexity")


def measure(arguments: argparse.Namespace, open_folder: Callable[[Path], Any], command: str, **notes: Any) -> None:
    """Write the perplexity of what `open_folder` makes of the folder; `notes` go into the result beside it."""
    of = read_evaluated(arguments)
    import shutil

    import numpy as np

    from altq.evaluation.bootstrap import perplexity_interval
    from altq.evaluation.perplexity import window_losses
    from altq.runtime.files import read_json, write_json

    tokens = np.load(arguments.tokens)
    drawn = read_json(arguments.tokens.with_suffix(".json"))
    num_windows, window_length = tokens.shape
    scratch = arguments.output.with_suffix(".states")
    inputs = [arguments.folder, arguments.tokens]
    nll = window_losses(open_folder(arguments.folder), tokens, scratch, identity(command, of, inputs))
    interval = perplexity_interval(nll, window_length - 1, np.random.Generator(np.random.PCG64(BOOTSTRAP_SEED)))
    result = {
        **of,
        "model": drawn["model"],
        "corpus": drawn["corpus"],
        "num_windows": num_windows,
        "window_length": window_length,
        "num_tokens": num_windows * (window_length - 1),
        "nll": nll,
        "perplexity": interval.perplexity,
        "perplexity_low": interval.low,
        "perplexity_high": interval.high,
        **notes,
        "provenance": provenance(command, of, inputs),
    }
    write_json(arguments.output, result)
    shutil.rmtree(scratch)
