"""A quantized checkpoint on packed kernels, the CPU's or the GPU's: 4 bits a weight in memory, one call a site."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from altq.checkpoint.cpu_products import PackedCacheReader, cpu_products
from altq.checkpoint.format import CheckpointWeights, is_checkpoint
from altq.checkpoint.packed_site import beyond_cpu_kernels, beyond_factors
from altq.checkpoint.quantized_model import CacheReader, Products, QuantizedSkeleton, Site
from altq.experiment.kinds import HALVES
from altq.experiment.setting import Setting
from altq.models.family import family_of
from altq.models.joints import CacheJoint, Projection, SharedInput
from altq.quantizers.integer import Codes
from altq.quantizers.quantizer import Quantizers
from altq.runtime.device import CPU

TRITON = "triton"
"""The variant of kernels that GPUs run; all others are of kernels.cpu."""


@runtime_checkable
class PackedLayer(Protocol):
    """A layer of packed weights: `kernels.cpu.QuantizedLinear`, or that of kernels.triton."""

    variant: str
    d_in: int
    d_out: int
    weight_bytes: int

    def __call__(self, x: Tensor) -> Tensor: ...


def open_packed_model(folder: str | Path, variant: str | None = None, device: torch.device = CPU) -> QuantizedSkeleton:
    """A checkpoint with its projections on packed kernels of a device, all else as `open_model` gives it.

    variant: as `packed_joints` takes it. ValueError where the folder is no checkpoint, or on the CPU where its bit
    widths are not those that the kernels know.
    """
    if not is_checkpoint(folder):
        raise ValueError(f"{folder} is no checkpoint: only a quantized checkpoint can run on packed weights")
    return QuantizedSkeleton(folder, *packed_joints(variant, device), device=device)


def load_packed_model(folder: str | Path, variant: str | None = None, device: torch.device = CPU) -> PreTrainedModel:
    """A checkpoint on packed kernels with all its blocks in memory; ValueError as for `open_packed_model`."""
    return open_packed_model(folder, variant, device).fill()


def packed_joints(
    variant: str | None = None, device: torch.device = CPU
) -> tuple[Callable[[Site], Products], Callable[..., CacheJoint]]:
    """The products of a site and the reader of the cache on packed kernels, as `quantize_block` takes them.

    variant: `TRITON`, or one of kernels.cpu; unless given, the former on a GPU and of the latter the fastest that runs
    here. With `TRITON`, a site that its kernels do not know and the cache are computed by torch.
    """
    if variant == TRITON or (variant is None and device.type == "cuda"):
        from altq.checkpoint.triton_products import TritonProducts  # a second of imports that the CPU does without

        return TritonProducts(device), CacheReader
    return partial(cpu_products, variant=variant), partial(PackedCacheReader, variant=variant)


def beyond_packing(folder: str | Path) -> str | None:
    """Say what the CPU kernels do not know of a checkpoint; None for nothing."""
    description = CheckpointWeights(folder).description
    setting = Setting.parse(description.setting)
    for structure in (getattr(block, half) for block in description.blocks for half in HALVES):
        transforms = (beyond_factors(transform["type"]) for transform in structure.sites.values())
        problems = (beyond_cpu_kernels(Quantizers.at(setting, **structure.options)), *transforms)
        if problem := next(filter(None, problems), None):
            return problem
    return None


def kernels_of(model: nn.Module) -> str:
    """Kernels that multiply the weights of a model, in words: packed ones, and how many sites are beyond them."""
    layers = [shared.function for shared in _sites(model)]
    packed = [layer for layer in layers if isinstance(layer, PackedLayer)]
    if not packed:
        return "codes as floats" if layers else "full precision"
    beyond = len(layers) - len(packed)
    rest = f", {beyond} of {len(layers)} sites with codes as floats" if beyond else ""
    return f"{packed[0].variant} kernels{rest}"


def _sites(model: nn.Module) -> list[SharedInput]:
    """The inputs that projections share, each once."""
    known = (module.shared for module in model.modules() if isinstance(module, Projection))
    return list({id(shared): shared for shared in known}.values())


@dataclass(frozen=True)
class WeightMemory:
    """Bytes of a model's weights: projections (codes and scales where packed), the same in float32, and the rest."""

    projections: int
    projections_in_float32: int
    rest: int


def weight_memory(model: PreTrainedModel) -> WeightMemory:
    """The memory of a model, packed or not; a tensor that is shared (tied) counts once."""
    projections = [module for module in model.modules() if isinstance(module, Projection)]
    rest = {id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}
    if not projections:
        blocks = model.get_submodule(family_of(model.config.model_type).blocks)
        packed = wide = sum(m.weight.nbytes for m in blocks.modules() if isinstance(m, nn.Linear))
        return WeightMemory(packed, wide, sum(rest.values()) - packed)
    layers = [shared.function for shared in _sites(model)]
    packed_layers = [layer for layer in layers if isinstance(layer, PackedLayer)]
    packed, wide = sum(x.weight_bytes for x in packed_layers), sum(4 * x.d_in * x.d_out for x in packed_layers)
    for weight in (p.weight for p in projections if not isinstance(p.shared.function, PackedLayer)):
        assert isinstance(weight, Codes | Tensor), "what products in torch multiply"
        parts = weight if isinstance(weight, Codes) else (weight,)
        packed, wide = packed + sum(part.nbytes for part in parts), wide + 4 * parts[0].numel()
    return WeightMemory(packed, wide, sum(rest.values()))
