"""The command that draws windows of tokens."""

import argparse
from pathlib import Path
from typing import get_args

from altq.commands.command import add_model, add_output
from altq.experiment.windows import BOS_DESCRIPTION, Bos
from altq.sources.tokens import calibration_tokens, test_tokens


def tokens_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--corpus", type=Path, required=True, metavar="FOLDER", help="folder that fetch-corpus wrote")
    parser.add_argument("--split", choices=("calibration", "test"), required=True, help="which text to draw from")
    parser.add_argument("--num-windows", type=int, metavar="N", help="number of windows; required for calibration")
    parser.add_argument(
        "--held-out", type=int, metavar="N", help="windows beside the calibration windows to write instead"
    )
    parser.add_argument("--window-length", type=int, required=True, metavar="N", help="tokens in a window")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the random starts; required for calibration")
    parser.add_argument("--bos", choices=get_args(Bos), help=BOS_DESCRIPTION)
    add_output(parser, ".npy file", beside=(".json",))


def tokens(arguments: argparse.Namespace) -> None:
    """Draw windows of tokens from one split of a corpus.

    Reads a model folder (its tokenizer) and a corpus folder. Writes an int32 array [windows, window length] and, beside
    it, a .json that says how it was drawn. Calibration windows start at random places, drawn with --seed; --held-out N
    writes N others instead, which share no token with them. Test windows are the first ones that do not overlap, all of
    them without --num-windows.

      altq tokens --model results/models/smollm2 --corpus results/corpora/pydoc --split calibration --seed 0 \\
          --num-windows 32 --window-length 512 --output results/tokens/smollm2/pydoc/calibration-seed0.npy
    """
    counts = {"num_windows": arguments.num_windows, "window_length": arguments.window_length}
    common = {**counts, "bos": arguments.bos}
    for name, value in {**counts, "held_out": arguments.held_out}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} draws nothing; give at least 1")
    if arguments.split == "test":
        for name in ("seed", "held_out"):
            if getattr(arguments, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} has no effect on test windows, which are not drawn at random; leave it out")
        test_tokens(arguments.model, arguments.corpus, arguments.output, **common)
    elif arguments.seed is None or arguments.num_windows is None:
        raise ValueError("calibration windows need --seed and --num-windows")
    else:
        calibration_tokens(
            arguments.model,
            arguments.corpus,
            arguments.output,
            **common,
            seed=arguments.seed,
            num_held_out=arguments.held_out,
        )
