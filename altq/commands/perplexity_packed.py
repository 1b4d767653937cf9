"""Measure the perplexity of a checkpoint as it runs on the packed CPU kernels.

Reads a checkpoint folder and test tokens. Writes what `altq perplexity` writes, and which kernels ran: the number is to
be that of the same checkpoint there, where codes are multiplied as floats.

  altq perplexity-packed --folder results/checkpoints/smollm2/affine/W4A4K4V4/gptq/seed0 --method affine \\
      --setting W4A4K4V4 --weights gptq --seed 0 --tokens results/tokens/smollm2/pydoc/test.npy --output packed.json
"""

import argparse

from altq.commands.perplexity import add_flags, measure

__all__ = ["add_flags", "run"]


def run(arguments: argparse.Namespace) -> None:
    from altq.checkpoint.packed_model import open_packed_model
    from kernels.cpu import default_variant

    measure(arguments, open_packed_model, "perplexity-packed", kernels=default_variant())
