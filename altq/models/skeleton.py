"""transformers' own model without its weights: blocks are filled one at a time from safetensors."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from altq.models.configuration import empty_model
from altq.models.family import Family
from altq.models.generation_config import load_generation_config
from altq.models.overflow import refuse_overflow_in_norms
from altq.models.residual import ResidualRotation
from altq.models.weights import ModelWeights
from altq.runtime.device import CPU, is_pinned_for, traits_of
from altq.runtime.precision import reduce_linear_layers


class _Recorder(nn.Module):
    """Stand-in for a block that records the arguments which transformers passes besides the hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        self.arguments = arguments
        return torch.zeros_like(hidden_states)  # for the last norm, whose output nobody reads


class Skeleton:
    """A model folder driven block by block; only the embedding, the last norm and the head are resident.

    outer_tensors: these three by their names in the model. With a rotation [hidden, hidden], the residual stream is
    rotated, and the head is not tied to the embedding. device: where all weights lie; whatever computes with them
    follows.
    """

    def __init__(
        self,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        rotation: Tensor | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.weights = self._open_weights(folder)
        self.family: Family = self.weights.family
        self.num_blocks = self.weights.num_blocks
        self.dtype, self.device = dtype, device
        self.residual = None if rotation is None else ResidualRotation(rotation.to(device), self.family)
        self.model = empty_model(self.weights.source, dtype, with_buffers=True)
        self.config = self.model.config
        refuse_overflow_in_norms(self.model, self.weights.source.name)
        if traits_of(device).reduced_linears:
            reduce_linear_layers(self.model)
        blocks = self.model.get_submodule(self.family.blocks)
        assert isinstance(blocks, nn.ModuleList), self.family.blocks
        self._blocks = blocks
        self._resident: tuple[int, nn.Module] | None = None
        self._require_tensors()
        self.outer_tensors = self._load_outer_tensors()
        # Computed on the CPU and then moved, so that they are the same bits on any device.
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        self.model.requires_grad_(False)

    def _open_weights(self, folder: str | Path) -> ModelWeights:
        return ModelWeights(folder)

    def _require_tensors(self) -> None:
        self.weights.require_tensors_of(self.model)

    def _load_outer_tensors(self) -> dict[str, Tensor]:
        """Give the model all that is outside its blocks; its tensors by their names, the head only if it is not tied.

        The head is tied to the embedding where transformers ties it: where the configuration says so, unless the file
        has both and they differ.
        """
        prefix = f"{self.family.blocks}."
        outer = {name for name in self.model.state_dict() if not name.startswith(prefix)}
        weights = {name: self._placed(self.weights.tensor(name)) for name in self.weights.names if name in outer}
        self.model.load_state_dict(weights, strict=False, assign=True)
        self.model.tie_weights(missing_keys=outer - weights.keys(), recompute_mapping=False)
        tensors = {name: tensor for name, tensor in self.model.state_dict().items() if name in outer}
        lacking = [name for name, tensor in tensors.items() if tensor.is_meta]
        if lacking:
            raise ValueError(f"{self.weights.folder} lacks {lacking[0]}; {self.weights.source.remedy}")
        if self.residual:
            tensors = self.residual.fold_outer(tensors)
            self.model.load_state_dict(tensors, strict=False, assign=True)
        is_tied = self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight
        self.config.tie_word_embeddings = is_tied
        if is_tied:
            del tensors[f"{self.family.head}.weight"]
        return tensors

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)

    def _in_main_memory(self, tensor: Tensor) -> Tensor:
        """A copy of what is mapped from a file."""
        return tensor.pin_memory() if is_pinned_for(self.device) else tensor.clone()

    def block(self, block: int) -> nn.Module:
        """A new module of block `block` with its weights, without gradients."""
        module = copy.deepcopy(self._blocks[block])
        tensors = {name: self._placed(tensor) for name, tensor in self.weights.block(block).items()}
        module.load_state_dict(tensors, assign=True)
        if self.residual:
            self.residual.fold_block(module)
        return module.requires_grad_(False)

    def resident_block(self, block: int) -> nn.Module:
        """The module of block `block`, which stays in memory until another block is requested: one at a time.

        On a GPU, the tensors of the next one are read into main memory meanwhile.
        """
        if self._resident is None or self._resident[0] != block:
            self._resident = None
            self._resident = block, self.block(block)
            if traits_of(self.device).reads_ahead and block + 1 < self.num_blocks:
                self.weights.read_ahead(block + 1, self._in_main_memory)
        return self._resident[1]

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """Embed tokens as the input of block 0: [windows, length] -> [windows, length, hidden]."""
        embedded = self.model.get_input_embeddings()(tokens.to(self.device)).to(self.dtype)
        name = self.family.embedding_multiplier
        return embedded if name is None else embedded * getattr(self.config, name)

    def embed_into(self, tokens: Tensor, outputs: Tensor) -> None:
        """Embed tokens into `outputs` [windows, length, hidden] one window at a time; it may be memory-mapped."""
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
            decoder(torch.zeros(1, length, dtype=torch.long, device=self.device), use_cache=False)
        finally:
            setattr(decoder, name, self._blocks)
        return [recorder.arguments for recorder in recorders]

    @torch.no_grad()
    def finish(self, states: Tensor) -> Tensor:
        """Apply the last norm, whose output the head reads; the shape [windows, length, hidden] stays."""
        return self.model.get_submodule(self.family.last_norm)(states.to(self.device))

    def fill(self) -> PreTrainedModel:
        """The whole model with all its blocks resident, which makes text as its folder's generation_config.json says."""
        if (generation := load_generation_config(self.weights.source)) is not None:
            self.model.generation_config = generation
        for block in range(self.num_blocks):
            self._blocks[block] = self.block(block)
        return self.model
