"""The full-precision model that a checkpoint is refined to: its last hidden states, recorded once, and its logits."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altq.models.logits import make_logits
from altq.models.residual_stream import ResidualStream
from altq.models.skeleton import Skeleton
from altq.runtime.device import CPU
from altq.runtime.progress import progress
from altq.runtime.resume import Scratch
from altq.runtime.tensor_files import read_hidden_states, written_hidden_states


class Teacher:
    """The full-precision model over some windows; only its embedding, last norm and head are in memory.

    states: the residual stream that leaves its last block, [windows, length, hidden], as `record` wrote it to a file.
    """

    def __init__(self, model_folder: str | Path, device: torch.device = CPU) -> None:
        self.skeleton = Skeleton(model_folder, device=device)
        self.states = torch.empty(0)

    @torch.no_grad()
    def record(self, tokens: Tensor, path: Path, scratch: Scratch) -> None:
        """Write the states over tokens [windows, length], one block in memory at a time.

        A run that was stopped goes on from `scratch`, which the caller drops. ValueError where a state is not finite.
        """
        skeleton = self.skeleton
        arguments = skeleton.block_arguments(tokens.shape[1])
        shape = (*tokens.shape, skeleton.config.hidden_size)

        def run_block(index: int, inputs: Tensor, outputs: Tensor) -> dict[str, Any]:
            for window in range(len(inputs)):
                rows = slice(window, window + 1)
                outputs[rows] = skeleton.resident_block(index)(inputs[rows].to(skeleton.device), **arguments[index])
            return {}

        with ResidualStream(scratch, shape, partial(skeleton.embed_into, tokens)) as stream:
            for index in progress(range(stream.step, skeleton.num_blocks), "running the full-precision model"):
                stream.advance(partial(run_block, index))
            with written_hidden_states(path, shape) as outputs:
                outputs.copy_(stream.states)

    def read(self, path: Path) -> None:
        """Map the states that were recorded into memory."""
        self.states = read_hidden_states(path)

    @torch.no_grad()
    def head_inputs(self, windows: Tensor) -> Tensor:
        """The hidden states that its head reads, of the windows of these indices: [windows, length, hidden]."""
        return self.skeleton.finish(self.states[windows].to(self.skeleton.device))

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, vocabulary]."""
        return make_logits(self.skeleton.model, hidden)
