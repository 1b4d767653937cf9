"""Perplexity by windows, each alone: exp of the mean negative log-likelihood over all windows (GPTQ's protocol)."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from altq.models.logits import make_logits
from altq.models.residual_stream import ResidualStream
from altq.models.skeleton import Skeleton
from altq.runtime.batch_size import BatchSize
from altq.runtime.device import traits_of
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch

WINDOWS_IN_MEMORY = 2
BATCH_SIZE = BatchSize()


@torch.no_grad()
def window_losses(skeleton: Skeleton, tokens: np.ndarray, scratch: Scratch) -> list[float]:
    """The negative log-likelihood of each window, summed over its length - 1 predicted tokens, in float64.

    tokens: [windows, length]. One block of the model is in memory at a time, and the hidden states of all windows where
    they fit; they are spilled to `scratch`, from which a run that was stopped goes on; the caller drops it.
    ValueError where a state or a loss is not finite, or a norm's input overflows.
    """
    finished = _finished(skeleton, tokens, scratch)
    losses = [loss for hidden, words in finished for loss in _losses(hidden, words, skeleton.model)]
    _require_finite(losses, skeleton)
    return losses


@torch.no_grad()
def window_predictions(skeleton: Skeleton, tokens: np.ndarray, scratch: Scratch) -> tuple[list[float], Tensor]:
    """Measure the losses [windows] of `window_losses`, and the likeliest token after each place [windows, length - 1]."""
    losses, likeliest = [], []
    for hidden, windows in _finished(skeleton, tokens, scratch):
        losses += _losses(hidden, windows, skeleton.model)
        pieces = hidden[:, :-1].flatten(0, 1).split(traits_of(hidden.device).tokens_of_logits)
        likeliest += [make_logits(skeleton.model, piece).argmax(-1).cpu() for piece in pieces]
    _require_finite(losses, skeleton)
    return losses, torch.cat(likeliest).view(len(losses), -1)


def _finished(skeleton: Skeleton, tokens: np.ndarray, scratch: Scratch) -> Iterator[tuple[Tensor, Tensor]]:
    """What the head reads [rows, length, hidden] for some windows [rows, length] at a time."""
    windows, arguments = torch.from_numpy(tokens).long(), skeleton.block_arguments(tokens.shape[1])
    batches = partial(BATCH_SIZE.slices, len(windows), WINDOWS_IN_MEMORY)
    shape = (*tokens.shape, skeleton.config.hidden_size)

    def run_block(index: int, inputs: Tensor, outputs: Tensor) -> dict[str, Any]:
        def run() -> None:
            for rows in batches():
                outputs[rows] = skeleton.resident_block(index)(inputs[rows].to(skeleton.device), **arguments[index])
                if not outputs[rows].isfinite().all():
                    raise ValueError(f"{skeleton.weights.folder}: the state after block {index} is not finite")

        BATCH_SIZE.fit(run, f"block {index}")
        return {}

    with ResidualStream(scratch, shape, partial(skeleton.embed_into, windows), skeleton.device) as stream:
        for index in progress(range(stream.step, skeleton.num_blocks), "perplexity"):
            stream.advance(partial(run_block, index))
        hidden = stream.states
        for rows in batches():
            yield skeleton.finish(hidden[rows]), windows[rows]


def _require_finite(losses: list[float], skeleton: Skeleton) -> None:
    bad = [index for index, loss in enumerate(losses) if not np.isfinite(loss)]
    if bad:
        where = skeleton.weights.folder
        raise ValueError(f"{where}: the loss of window {bad[0]} is {losses[bad[0]]}; the model's outputs overflow")


def _losses(hidden: Tensor, windows: Tensor, model: PreTrainedModel) -> list[float]:
    """Of some windows, from what the head reads: [windows, length, hidden]."""
    rows, targets = hidden[:, :-1].flatten(0, 1), windows[:, 1:].flatten().to(hidden.device)
    count = traits_of(hidden.device).tokens_of_logits
    pieces = zip(rows.split(count), targets.split(count), strict=True)
    losses = torch.cat([F.cross_entropy(make_logits(model, piece), words, reduction="none") for piece, words in pieces])
    return losses.view(len(windows), -1).double().sum(1).tolist()
