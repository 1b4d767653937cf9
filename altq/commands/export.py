"""The command that writes a checkpoint in the format of another library."""

import argparse
from pathlib import Path

from altq.commands.command import add_output
from altq.export.compressed_tensors import export_compressed_tensors
from altq.export.folded_checkpoint import FoldedCheckpoint

FORMATS = {"compressed-tensors": export_compressed_tensors}


def export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="checkpoint folder")
    parser.add_argument("--format", choices=FORMATS, required=True, help="that of the folder that is written")
    add_output(parser, "folder")


def export(arguments: argparse.Namespace) -> None:
    """Write a checkpoint in the format of another library.

    Reads a checkpoint folder. compressed-tensors: weights alone, whose transforms have all been folded away, for
    transformers and vLLM. What a format cannot say exactly is refused, with all that stands in the way. Writes a new
    folder, config.json last.

      altq export results/checkpoints/smollm2/rtn/W4A16K16V16g64/gptq/seed0 --format compressed-tensors --output exported
    """
    if arguments.output.exists():
        raise ValueError(f"{arguments.output} is there already; give a folder that is not")
    FORMATS[arguments.format](FoldedCheckpoint(arguments.folder), arguments.output)
