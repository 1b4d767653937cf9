"""Perplexity by windows, each alone: exp of the mean negative log-likelihood over all windows (GPTQ's protocol)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altq.methods.quantized_model import load_model
from altq.progress import progress

WINDOWS_IN_MEMORY = 2
TOKENS_OF_LOGITS = 128
"""Logits are made for so many tokens at a time: never those of a window, let alone of all. Those of 128 tokens and
49,152 words are 25 MB; above 32 MB, malloc takes fresh pages from the system for every tensor, and gives them back."""


@torch.no_grad()
def window_losses(
    folder: str | Path, tokens: np.ndarray, load: Callable[[str | Path], nn.Module] = load_model
) -> list[float]:
    """The negative log-likelihood of each window, summed over its length - 1 predicted tokens, in float64.

    folder: a model or a checkpoint, made a module by `load`; tokens: [windows, length]. ValueError where a loss is not
    finite.
    """
    model = load(folder)
    losses: list[float] = []
    for start in progress(range(0, len(tokens), WINDOWS_IN_MEMORY), "perplexity"):
        windows = torch.from_numpy(tokens[start : start + WINDOWS_IN_MEMORY]).long()
        losses += _losses(model, windows)
    bad = [index for index, loss in enumerate(losses) if not np.isfinite(loss)]
    if bad:
        raise ValueError(f"{folder}: the loss of window {bad[0]} is {losses[bad[0]]}; the model's outputs overflow")
    return losses


def _losses(model: nn.Module, windows: Tensor) -> list[float]:
    hidden = model.get_decoder()(windows, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    targets = windows[:, 1:].flatten()
    head = model.get_output_embeddings()
    pieces = zip(hidden.split(TOKENS_OF_LOGITS), targets.split(TOKENS_OF_LOGITS), strict=True)
    losses = torch.cat([F.cross_entropy(head(rows), words, reduction="none") for rows, words in pieces])
    return losses.view(len(windows), -1).double().sum(1).tolist()
