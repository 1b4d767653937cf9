"""Perplexity by windows, each alone: exp of the mean negative log-likelihood over all windows (GPTQ's protocol)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altq.methods.quantized_model import load_model
from altq.progress import progress

WINDOWS_IN_MEMORY = 2
TOKENS_OF_LOGITS = 256
"""Logits are made for so many tokens at a time: never those of a window, let alone of all."""


@torch.no_grad()
def window_losses(folder: str | Path, tokens: np.ndarray) -> list[float]:
    """The negative log-likelihood of each window, summed over its length - 1 predicted tokens, in float64.

    folder: a model or a checkpoint; tokens: [windows, length]. ValueError where a loss is not finite.
    """
    model = load_model(folder)
    losses: list[float] = []
    for start in progress(range(0, len(tokens), WINDOWS_IN_MEMORY), "perplexity"):
        windows = torch.from_numpy(tokens[start : start + WINDOWS_IN_MEMORY]).long()
        losses += _losses(model, windows)
    bad = [index for index, loss in enumerate(losses) if not np.isfinite(loss)]
    if bad:
        raise ValueError(f"{folder}: the loss of window {bad[0]} is {losses[bad[0]]}; the model's outputs overflow")
    return losses


def _losses(model: nn.Module, windows: Tensor) -> list[float]:
    hidden = model.get_decoder()(windows, use_cache=False).last_hidden_state[:, :-1]
    head = model.get_output_embeddings()
    totals = torch.zeros(len(windows), dtype=torch.float64)
    for start in range(0, hidden.shape[1], TOKENS_OF_LOGITS):
        rows = slice(start, start + TOKENS_OF_LOGITS)
        targets = windows[:, 1:][:, rows]
        logits = head(hidden[:, rows])
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        totals += loss.view_as(targets).double().sum(1)
    return totals.tolist()
