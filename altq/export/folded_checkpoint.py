"""A checkpoint that is a plain model with weights on a grid: its transforms have all been folded away.

Such a checkpoint is what other formats can say: nothing happens to the input of a projection, keys and values are kept
as they are, and the weights are codes with scales of rows or of groups of channels.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from altq.checkpoint.format import CheckpointWeights, is_checkpoint
from altq.checkpoint.quantized_model import weight_codes
from altq.experiment.kinds import HALVES
from altq.experiment.setting import FULL_PRECISION_BITS, Setting
from altq.models.family import Half
from altq.quantizers.quantizer import Quantizers
from altq.quantizers.weight_codes import WeightCodes, WeightGrid


class FoldedCheckpoint:
    """The tensors of a checkpoint under the names of the model that it was made from, its projections as codes.

    ValueError, with everything that stands in the way, where the checkpoint is more than weights on a grid.
    """

    def __init__(self, folder: str | Path) -> None:
        if not is_checkpoint(folder):
            raise ValueError(f"{folder} is no checkpoint of altq; only a quantized checkpoint is exported")
        self.weights = CheckpointWeights(folder)
        self.setting = Setting.parse(self.weights.description.setting)
        if problems := [*self._obstacles()]:
            raise ValueError(f"{folder} cannot be exported as a model of weights alone: {'; '.join(problems)}")

    @property
    def has_zero_points(self) -> bool:
        """Whether its weights have zero points."""
        return self.weights.description.blocks[0].attention.zero_point

    def other_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the model besides the weights of its projections: embedding, norms, biases, head."""
        biases = dict(self._fused_biases())
        parts = {part for names in biases.values() for part in names}
        for name in self.weights.names:
            if name.endswith((".weight", ".bias")) and name not in parts and ".transform." not in name:
                yield name, self.weights.tensor(name)
        for name, names in biases.items():
            yield name, torch.cat([self.weights.tensor(part) for part in names])

    def projections(self) -> Iterator[tuple[str, WeightCodes]]:
        """Every projection by its name in the model, the parts of a fused one joined again."""
        for block in range(self.weights.num_blocks):
            prefix, tensors = self.weights.block_prefix(block), self.weights.block(block)
            for half in HALVES:
                description: Half = self.weights.family.half(half)
                structure = getattr(self.weights.description.blocks[block], half)
                quantizer = Quantizers.at(self.setting, **structure.options).weights
                codes = {name: weight_codes(name, tensors, quantizer) for name in description.projections}
                if description.fused:
                    codes[description.fused] = _joined([codes.pop(name) for name in description.readers])
                yield from ((prefix + name, weight) for name, weight in codes.items())

    def _fused_biases(self) -> Iterator[tuple[str, list[str]]]:
        """The bias of every fused projection that has one, and those of its parts, by name."""
        for block, half in product(range(self.weights.num_blocks), HALVES):
            prefix, description = self.weights.block_prefix(block), self.weights.family.half(half)
            parts = [f"{prefix}{name}.bias" for name in description.readers]
            if description.fused and parts[0] in self.weights.names:
                yield f"{prefix}{description.fused}.bias", parts

    def _obstacles(self) -> Iterator[str]:
        setting = self.setting
        if setting.weights == FULL_PRECISION_BITS:
            yield "its weights are not quantized"
        if setting.activations != FULL_PRECISION_BITS:
            yield f"its activations are quantized to {setting.activations} bits"
        if setting.keys != FULL_PRECISION_BITS or setting.values != FULL_PRECISION_BITS:
            yield f"its keys and values are quantized to {setting.keys} and {setting.values} bits"
        structures = [getattr(block, half) for block in self.weights.description.blocks for half in HALVES]
        if len({structure.zero_point for structure in structures}) > 1:
            yield "some of its weights have zero points, and others have none"
        online: dict[str, str] = {}
        for block in self.weights.description.blocks:
            for half in HALVES:
                sites = getattr(block, half).sites
                for site in self.weights.family.half(half).input_sites:
                    if (kind := sites[site]["type"]) != "Identity":
                        online.setdefault(site, kind)
        if online:
            listed = ", ".join(f"{kind} at {site}" for site, kind in online.items())
            yield (
                f"transforms stay in its forward pass ({listed}); calibrate kind `identity` or `scaling` with "
                "other_sites: scaling, which fold"
            )


def _joined(parts: list[WeightCodes]) -> WeightCodes:
    """Weights that share an input, one below the other."""
    grids = [part.grid for part in parts]
    zeros = [grid.zero for grid in grids if grid.zero is not None]
    scale, zero = torch.cat([grid.scale for grid in grids]), torch.cat(zeros) if zeros else None
    return WeightCodes(
        torch.cat([part.codes for part in parts]), WeightGrid(grids[0].bits, scale, zero, grids[0].group)
    )
