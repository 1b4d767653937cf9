"""Commands that measure perplexity: as codes multiplied in torch, or on the packed CPU kernels."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from altq.checkpoint.format import labels_of
from altq.checkpoint.packed_model import open_packed_model
from altq.checkpoint.quantized_model import open_model
from altq.commands.command import add_folder, add_output
from altq.commands.device import add_device
from altq.evaluation.bootstrap import perplexity_interval
from altq.evaluation.perplexity import window_losses
from altq.models.context import check_context
from altq.models.skeleton import Skeleton
from altq.runtime.files import write_json
from altq.runtime.gpu import open_device
from altq.runtime.lineage import check_lineage, run_fingerprint
from altq.runtime.provenance import provenance
from altq.runtime.resume import Scratch
from altq.sources.token_file import read_tokens
from kernels.cpu import default_variant

BOOTSTRAP_SEED = 0


def perplexity_flags(parser: argparse.ArgumentParser) -> None:
    perplexity_packed_flags(parser)
    add_device(parser)


def perplexity(arguments: argparse.Namespace) -> None:
    """Measure the perplexity of a model or checkpoint over windows of tokens.

    Reads a model folder or a checkpoint folder, and test tokens. Writes a .json file: what was evaluated, as the
    checkpoint says it; each window's summed negative log-likelihood, the perplexity exp(mean over all predicted
    tokens), its 95 % bootstrap interval over windows, and how all of it was made. A run that was stopped goes on at the
    block of the model where it stopped.

      altq perplexity --folder results/checkpoints/smollm2/affine/W4A4K4V4/gptq/seed0 \\
          --tokens results/tokens/smollm2/pydoc/test.npy --output affine-pydoc.json
    """
    device = open_device(arguments.device, arguments.gpu_memory)
    _measure(arguments, partial(open_model, device=device), "perplexity")


def perplexity_packed_flags(parser: argparse.ArgumentParser) -> None:
    add_folder(parser)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="test tokens (.npy)")
    add_output(parser, ".json file")


def perplexity_packed(arguments: argparse.Namespace) -> None:
    """Measure the perplexity of a checkpoint as it runs on the packed CPU kernels.

    Reads a checkpoint folder and test tokens. Writes what `altq perplexity` writes, and which kernels ran: the number
    is to be that of the same checkpoint there, where codes are multiplied as floats.

      altq perplexity-packed --folder results/checkpoints/smollm2/affine/W4A4K4V4/gptq/seed0 \\
          --tokens results/tokens/smollm2/pydoc/test.npy --output packed.json
    """
    _measure(arguments, open_packed_model, "perplexity-packed", kernels=default_variant())


def _measure(
    arguments: argparse.Namespace, open_folder: Callable[[Path], Skeleton], command: str, **notes: Any
) -> None:
    """Write the perplexity of what `open_folder` makes of the folder; `notes` go into the result beside it."""
    labels = labels_of(arguments.folder)
    tokens, drawn = read_tokens(arguments.tokens, arguments.folder)
    num_windows, window_length = tokens.shape
    inputs = [arguments.folder, arguments.tokens]
    check_lineage(inputs)
    context = check_context(arguments.folder, window_length)
    skeleton = open_folder(arguments.folder)
    fingerprint = run_fingerprint(command, labels, inputs)
    with Scratch.beside(arguments.output, fingerprint, skeleton.device.type) as scratch:
        nll = window_losses(skeleton, tokens, scratch)
        interval = perplexity_interval(nll, window_length - 1, np.random.Generator(np.random.PCG64(BOOTSTRAP_SEED)))
        result = {
            **labels,
            "model": drawn.model,
            "corpus": drawn.corpus,
            "num_windows": num_windows,
            "window_length": window_length,
            "bos": drawn.bos,
            "max_position_embeddings": context,
            "num_tokens": num_windows * (window_length - 1),
            "nll": nll,
            "perplexity": interval.perplexity,
            "perplexity_low": interval.low,
            "perplexity_high": interval.high,
            "devices": scratch.devices,
            **notes,
            "provenance": provenance(command, labels, inputs, skeleton.device),
        }
        write_json(arguments.output, result)
