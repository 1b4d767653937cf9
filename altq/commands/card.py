"""The command that writes the card of a checkpoint."""

import argparse
from pathlib import Path

from altq.commands.command import add_output
from altq.report.card import make_card
from altq.report.results import read_perplexity
from altq.runtime.files import write_text


def card_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FOLDER", help="checkpoint folder")
    parser.add_argument(
        "--results", type=Path, nargs="*", default=[], metavar="FILE",
        help="perplexities of the checkpoint and of its model (default: the card has none)",
    )  # fmt: skip
    add_output(parser, "README.md", own=("checkpoint",))


def card(arguments: argparse.Namespace) -> None:
    """Write the card of a checkpoint, as the hub reads it: what it is, what it costs, how it is used.

    Reads a checkpoint folder with its provenance, and results of `altq perplexity`, of which the card has those that were
    measured on the same text before and after. Writes a text with metadata for the hub at its head.

      altq card --checkpoint results/checkpoints/smollm2/adaptive/W4A4K4V4/gptq/seed0 \\
          --results results/perplexity/smollm2/full/W16A16K16V16/none/seed0/wikipedia.json \\
          results/perplexity/smollm2/adaptive/W4A4K4V4/gptq/seed0/wikipedia.json \\
          --output results/checkpoints/smollm2/adaptive/W4A4K4V4/gptq/seed0/README.md
    """
    text = make_card(arguments.checkpoint, [read_perplexity(path) for path in arguments.results])
    write_text(arguments.output, text)
