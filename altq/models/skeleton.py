"""transformers' own model without its weights: blocks are filled one at a time from safetensors."""

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from altq.models.family import Family
from altq.models.joints import ATTENTION
from altq.models.overflow import refuse_overflow_in_norms
from altq.models.residual import ResidualRotation
from altq.models.weights import ModelWeights


class _Recorder(nn.Module):
    """Stands where a block was and keeps what transformers would have given it besides the hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        self.arguments = arguments
        return torch.zeros_like(hidden_states)  # for the last norm, whose output nobody reads


class Skeleton:
    """A model folder driven block by block; only the embedding, the last norm and the head are resident.

    outer_tensors: these three by their names in the model. With a rotation [hidden, hidden], the residual stream is
    rotated, and the head is not tied to the embedding.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype = torch.float32, rotation: Tensor | None = None) -> None:
        self.weights = self._open_weights(folder)
        self.family: Family = self.weights.family
        self.num_blocks = self.weights.num_blocks
        self.dtype = dtype
        self.config = AutoConfig.from_pretrained(folder)
        # Of a checkpoint: its modules are made here, and other libraries are not to look for whoever makes them.
        vars(self.config).pop("quantization_config", None)
        self.residual = None if rotation is None else ResidualRotation(rotation, self.family)
        if self.residual:
            self.config.tie_word_embeddings = False
        with init_empty_weights(include_buffers=False):
            self.model = AutoModelForCausalLM.from_config(self.config, attn_implementation=ATTENTION, dtype=dtype)
        self.model.eval().requires_grad_(False)
        refuse_overflow_in_norms(self.model, folder)
        self._blocks: nn.ModuleList = self.model.get_submodule(self.family.blocks)
        self._resident: tuple[int, nn.Module] | None = None
        self.outer_tensors = self._read_outer_tensors()
        self.model.load_state_dict(self.outer_tensors, strict=False, assign=True)
        self.model.tie_weights()
        self.model.requires_grad_(False)

    def _open_weights(self, folder: str | Path) -> ModelWeights:
        return ModelWeights(folder)

    def _read_outer_tensors(self) -> dict[str, Tensor]:
        names = [name for name in self.weights.names if not name.startswith(f"{self.family.blocks}.")]
        tensors = {name: self.weights.tensor(name).to(self.dtype) for name in names}
        return self.residual.fold_outer(tensors) if self.residual else tensors

    def block(self, block: int) -> nn.Module:
        """A new module of block `block` with its weights, without gradients."""
        module = copy.deepcopy(self._blocks[block])
        module.load_state_dict({n: t.to(self.dtype) for n, t in self.weights.block(block).items()}, assign=True)
        if self.residual:
            self.residual.fold_block(module)
        return module.requires_grad_(False)

    def resident_block(self, block: int) -> nn.Module:
        """The one module of block `block` until another is asked for, which is read when this one is let go of."""
        if self._resident is None or self._resident[0] != block:
            self._resident = None
            self._resident = block, self.block(block)
        return self._resident[1]

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """What enters block 0: [windows, length] -> [windows, length, hidden]."""
        return self.model.get_input_embeddings()(tokens).to(self.dtype)

    def embed_into(self, tokens: Tensor, outputs: Tensor) -> None:
        """The same, a window at a time, into `outputs`, which may be memory-mapped: [windows, length, hidden]."""
        for window, output in zip(tokens, outputs, strict=True):
            output.copy_(self.embed(window))

    @torch.no_grad()
    def block_arguments(self, length: int) -> list[dict[str, Any]]:
        """The arguments (rotary embedding, mask) that transformers hands to each block for windows of `length` tokens.

        They are recorded by running transformers' own loop over blocks that only listen.
        """
        recorders = [_Recorder() for _ in range(self.num_blocks)]
        path, _, name = self.family.blocks.rpartition(".")
        decoder = self.model.get_submodule(path)
        setattr(decoder, name, nn.ModuleList(recorders))
        try:
            decoder(torch.zeros(1, length, dtype=torch.long), use_cache=False)
        finally:
            setattr(decoder, name, self._blocks)
        return [recorder.arguments for recorder in recorders]

    @torch.no_grad()
    def finish(self, states: Tensor) -> Tensor:
        """What the head reads: the last norm's output, [windows, length, hidden] -> the same."""
        return self.model.get_submodule(self.family.last_norm)(states)

    def fill(self) -> nn.Module:
        """The whole model with all its blocks resident."""
        for block in range(self.num_blocks):
            self._blocks[block] = self.block(block)
        return self.model
