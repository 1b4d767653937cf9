"""A checkpoint as refinement runs it: codes frozen, with gradients for all that scales them.

The forward pass is that of the checkpoint. A block runs again in the backward pass (gradient checkpointing), so that
memory is that of one block besides codes of a byte each and the residual stream between blocks.
"""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from altq.checkpoint.quantized_model import (
    CacheReader,
    Operand,
    Products,
    QuantizedSkeleton,
    Site,
    quantize_block,
    weight_codes,
)
from altq.experiment.kinds import HALVES
from altq.experiment.setting import FULL_PRECISION
from altq.models.logits import make_logits
from altq.quantizers.integer import Codes, dequantized
from altq.quantizers.quantizer import Quantizer, Quantizers
from altq.quantizers.weight_codes import WeightCodes
from altq.refinement.trained_tensors import TrainedTensors
from altq.runtime.device import CPU
from altq.runtime.precision import reduced_linear
from altq.transforms.heads import HeadTransform
from altq.transforms.transform import Transform


class Student:
    """A checkpoint with all its blocks in memory, and the tensors of it that are trained.

    ValueError for a folder that is no checkpoint, and for one that quantizes nothing.
    """

    def __init__(self, folder: str | Path, length: int, device: torch.device = CPU) -> None:
        self.skeleton = _TrainableSkeleton(folder, device)
        if self.skeleton.setting == FULL_PRECISION:
            raise ValueError(f"{folder} is at {FULL_PRECISION}, which quantizes nothing: there is nothing to refine")
        family = self.skeleton.family
        self.trained = self.skeleton.trained
        self._blocks = [self.skeleton.block(block) for block in range(self.skeleton.num_blocks)]
        self._arguments = self.skeleton.block_arguments(length)
        self._last_norm = self.skeleton.model.get_submodule(family.last_norm)
        self._last_gain = f"{family.last_norm}.weight"
        self.trained.add(self._last_gain, self._last_norm.get_parameter("weight"), family.norm_offset)

    def __call__(self, tokens: Tensor) -> Tensor:
        """The hidden states that the head reads: [windows, length] -> [windows, length, hidden]."""
        hidden = self.skeleton.embed(tokens)
        for block in range(len(self._blocks)):
            if torch.is_grad_enabled():
                hidden = checkpoint(self._run_block, block, hidden, use_reentrant=False)
            else:
                hidden = self._run_block(block, hidden)
        return functional_call(self._last_norm, {"weight": self.trained.value(self._last_gain)}, (hidden,))

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, vocabulary]."""
        return make_logits(self.skeleton.model, hidden)

    def _run_block(self, block: int, hidden: Tensor) -> Tensor:
        module, prefix = self._blocks[block], self.skeleton.weights.block_prefix(block)
        gains = {name: self.trained.value(prefix + name) for name, _ in module.named_parameters()}
        return functional_call(module, gains, (hidden,), self._arguments[block])


class _TrainableSkeleton(QuantizedSkeleton):
    """A checkpoint whose blocks, once they are made, have gradients for `trained`."""

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        super().__init__(folder, device=device)
        self.trained = TrainedTensors()

    def block(self, block: int) -> nn.Module:
        module = copy.deepcopy(self._blocks[block])
        prefix = self.weights.block_prefix(block)
        sites = {names: site for half in HALVES for site, names in self.family.half(half).input_sites.items()}
        quantize_block(
            module,
            self.weights,
            block=block,
            products=partial(_products, self.trained, prefix, sites),
            cache_reader=partial(_TrainedCacheReader, self.trained, prefix),
            device=self.device,
        )
        for name, parameter in module.named_parameters():
            # A block's norms: projections are no modules of torch's.
            self.trained.add(prefix + name, parameter, self.family.norm_offset)
        return module


def _products(trained: TrainedTensors, prefix: str, sites: dict[tuple[str, ...], str], site: Site) -> Products:
    """Products of frozen codes, with gradients for the scales of their rows and the clipping factors of the input."""
    clip = f"{prefix}{sites[site.names]}.clip"
    trained.add(clip, site.clip)
    operands = []
    for name in site.names:
        if site.quantizers.weights.is_identity:
            weight: _Frozen | Tensor = site.tensors[f"{name}.weight"]
        else:
            trained.add(f"{prefix}{name}.scale", site.tensors[f"{name}.scale"])
            codes = weight_codes(name, site.tensors, site.quantizers.weights)
            weight = _Frozen(codes, f"{prefix}{name}.scale")
        operands.append(Operand(weight, site.tensors.get(f"{name}.bias")))
    read = partial(_read, trained, clip, site.transform.requires_grad_(False), site.quantizers.activations)
    return Products(read, partial(_multiply, trained), operands)


@dataclass(frozen=True)
class _Frozen:
    """The weight of a projection: codes, a byte each, on a grid whose scales are trained under the name `scale`."""

    codes: WeightCodes
    scale: str

    def factored(self, trained: TrainedTensors) -> Codes | Tensor:
        """As `WeightCodes.factored`, with gradients for the scales."""
        grid = replace(self.codes.grid, scale=trained.value(self.scale))
        return replace(self.codes, grid=grid).factored()


def _read(trained: TrainedTensors, clip: str, transform: Transform, quantizer: Quantizer, x: Tensor) -> Codes | Tensor:
    """The input of a site, transformed and quantized, with straight-through gradients."""
    transformed, factor = transform.apply_to(x), trained.value(clip)
    values = quantizer.fake(transformed, factor)
    if quantizer.is_identity:
        return values
    with torch.no_grad():
        codes = quantizer.codes(transformed, factor)
    assert isinstance(codes, Codes)
    scale = codes.scale
    # That gradients take the scale for a constant here changes nothing: it is multiplied by again behind the product.
    return Codes(values / scale, scale)


def _multiply(trained: TrainedTensors, x: Codes | Tensor, weight: _Frozen | Tensor) -> Tensor:
    """[..., d_in] -> [..., d_out], as `quantized_linear`; a row's scale stands behind the product.

    So no gradient of a whole weight is computed, which would be a third product of the backward pass; it is where a row
    has several scales.
    """
    factors = weight if isinstance(weight, Tensor) else weight.factored(trained)
    if isinstance(factors, Tensor):
        return F.linear(dequantized(x), factors)
    if isinstance(x, Codes):
        return reduced_linear(x.codes, factors.codes) * x.scale * factors.scale.T
    return F.linear(x, factors.codes) * factors.scale.T


class _TrainedCacheReader(CacheReader):
    """The reader of the cache, with gradients for its clipping factors."""

    def __init__(
        self,
        trained: TrainedTensors,
        prefix: str,
        transform: HeadTransform,
        clips: dict[str, Tensor],
        quantizers: Quantizers,
    ) -> None:
        super().__init__(transform, clips, quantizers)
        self._trained, self._names = trained, {site: f"{prefix}{site}.clip" for site in clips}
        for site, clip in clips.items():
            trained.add(self._names[site], clip)

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.clips = {site: self._trained.value(name) for site, name in self._names.items()}
        return super().keys_and_values(key, value)
