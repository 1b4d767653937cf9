"""Two models compared on the same text: losses and likeliest tokens of windows, and the speed of their text."""

import gc
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from torch import Tensor

from altq.checkpoint.quantized_model import open_model
from altq.evaluation.before_after import Measured, weight_bytes
from altq.evaluation.generation import decoding_speed, load_generator
from altq.evaluation.perplexity import window_predictions
from altq.runtime.resume import Scratch

PROMPT_TOKENS = 16
NEW_TOKENS = 32
ROUNDS = 3


class Compared(NamedTuple):
    """A model's size and losses, the likeliest token after each place [windows, length - 1], and tokens a second."""

    measured: Measured
    likeliest: Tensor
    tokens_per_second: float


def measure(name: str, folder: Path, tokens: np.ndarray) -> Compared:
    """Measure a model folder or a checkpoint on windows of tokens [windows, length], one block in memory at a time.

    Text is made on the packed kernels where the folder is a checkpoint; its speed is the median of a few rounds.
    """
    with TemporaryDirectory() as scratch:
        losses, likeliest = window_predictions(open_model(folder), tokens, Scratch(Path(scratch), "compare"))
    model = load_generator(folder)
    prompt = tokens[0, :PROMPT_TOKENS].tolist()
    speeds = [decoding_speed(model, prompt, NEW_TOKENS) for _ in range(ROUNDS)]
    del model
    gc.collect()  # a model refers to itself, and the next one is to have its memory
    rate = statistics.median(speed.decoded_tokens / speed.decode_seconds for speed in speeds)
    return Compared(Measured(name, weight_bytes(folder), losses, tokens.shape[1]), likeliest, rate)


def agreement(one: Compared, other: Compared) -> float:
    """Share of the places after which both take the same token for the likeliest."""
    return (one.likeliest == other.likeliest).float().mean().item()
