"""A quantized checkpoint on the packed kernels: 4 bits a weight in memory, one call for all projections of a site."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from altq.checkpoint.format import is_checkpoint
from altq.checkpoint.quantized_model import CacheReader, Operand, Products, QuantizedSkeleton, Site, weight_codes
from altq.models.family import family_of
from altq.models.joints import Projection
from altq.quantizers.quantizer import Quantizer, Quantizers
from altq.transforms.balance import Balance
from altq.transforms.heads import HeadMixing, HeadTransform
from altq.transforms.identity import Identity
from altq.transforms.kronecker import Kronecker
from altq.transforms.transform import Transform
from kernels.cpu import Activations, CacheQuantizer, QuantizedLinear


def open_packed_model(folder: str | Path, variant: str | None = None) -> QuantizedSkeleton:
    """A checkpoint with its projections on the CPU kernels, all else as `open_model` gives it.

    variant: of kernels.cpu; the fastest that runs here where none is given. ValueError where the folder is no
    checkpoint, or its bit widths are not those that the kernels know.
    """
    if not is_checkpoint(folder):
        raise ValueError(f"{folder} is no checkpoint: only a quantized checkpoint can run on packed weights")
    return QuantizedSkeleton(folder, *packed_joints(variant))


def load_packed_model(folder: str | Path, variant: str | None = None) -> nn.Module:
    """The same with all its blocks in memory."""
    return open_packed_model(folder, variant).fill()


def packed_joints(variant: str | None = None) -> tuple[Callable[[Site], Products], Callable[..., CacheReader]]:
    """The products of a site and the reader of the cache on the CPU kernels, as `quantize_block` takes them."""
    return partial(packed_products, variant=variant), partial(PackedCacheReader, variant=variant)


class PackedCacheReader(CacheReader):
    """The same joint with the kernels' quantizers of keys and values."""

    def __init__(
        self, transform: HeadTransform, clips: dict[str, Tensor], quantizers: Quantizers, *, variant: str | None
    ) -> None:
        super().__init__(transform, clips, quantizers)
        ranges = {site: clip.expand(len(self.factors), 1, 2).squeeze(1) for site, clip in clips.items()}
        self._keys = CacheQuantizer(_width(quantizers.keys), ranges["key"], self.factors, variant=variant)
        self._values = CacheQuantizer(_width(quantizers.values), ranges["value"], variant=variant)

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self._keys(key), self._values(value)


def _width(quantizer: Quantizer) -> int | None:
    return None if quantizer.is_identity else quantizer.bits


def packed_products(site: Site, *, variant: str | None) -> Products:
    """One layer for all projections of a site; each takes its columns of the outputs."""
    quantizers = site.quantizers
    if quantizers.weights.is_identity or quantizers.activations.is_identity:
        raise ValueError(
            f"packed products need quantized weights and activations; here weights have {quantizers.weights.bits} bits "
            f"and activations {quantizers.activations.bits}"
        )
    weights = [weight_codes(name, site.tensors, quantizers.weights.bits) for name in site.names]
    left, right = _factors(site.transform)
    layer = QuantizedLinear(
        torch.cat([codes for codes, _ in weights]),
        torch.cat([scale for _, scale in weights]),
        weight_bits=quantizers.weights.bits,
        activations=Activations(quantizers.activations.bits, site.clip, **quantizers.options),
        left=left,
        right=right,
        bias=_bias(site, [len(codes) for codes, _ in weights]),
        variant=variant,
    )
    operands, first = [], 0
    for codes, _ in weights:
        operands.append(Operand(slice(first, first + len(codes)), None))
        first += len(codes)
    return Products(layer, _columns, operands)


def _columns(outputs: Tensor, columns: slice) -> Tensor:
    return outputs[..., columns]


def _bias(site: Site, rows: list[int]) -> Tensor | None:
    """The biases of a site's projections one behind the other, zeros where one has none; None where none has."""
    biases = [site.tensors.get(f"{name}.bias") for name in site.names]
    if all(bias is None for bias in biases):
        return None
    return torch.cat([torch.zeros(n) if bias is None else bias.float() for bias, n in zip(biases, rows, strict=True)])


def _factors(transform: Transform) -> tuple[Tensor | None, Tensor | None]:
    """The Kronecker factors of an online transform, None for an identity."""
    match transform:
        case Identity():
            return None, None
        case Kronecker():
            return transform.left, transform.right
        case HeadMixing():
            return transform.mixing, None
        case Balance():
            return transform.left, transform.runs
    raise ValueError(f"the packed kernels do not know the transform {type(transform).__name__}")


@dataclass(frozen=True)
class WeightMemory:
    """Bytes of a model's weights: projections (codes and scales where packed), the same in float32, and the rest."""

    projections: int
    projections_in_float32: int
    rest: int


def weight_memory(model: nn.Module) -> WeightMemory:
    """The memory of a packed model or of one in full precision; a tensor that is shared (tied) counts once."""
    known = [module for module in model.modules() if isinstance(module, Projection)]
    layers = {id(projection.shared): projection.shared.function for projection in known}.values()
    packed, wide = sum(x.weight_bytes for x in layers), sum(4 * x.d_in * x.d_out for x in layers)
    rest = {id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}
    if not known:
        blocks = model.get_submodule(family_of(model.config.model_type).blocks)
        packed = wide = sum(m.weight.nbytes for m in blocks.modules() if isinstance(m, nn.Linear))
        return WeightMemory(packed, wide, sum(rest.values()) - packed)
    return WeightMemory(packed, wide, sum(rest.values()))
