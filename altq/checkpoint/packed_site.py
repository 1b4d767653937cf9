"""A site of a checkpoint as one packed layer for all its projections, whichever kernels multiply it."""

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from altq.checkpoint.quantized_model import Operand, Products, Site, weight_codes
from altq.quantizers.quantizer import Quantizer, Quantizers
from altq.transforms.balance import Balance
from altq.transforms.heads import HeadMixing
from altq.transforms.identity import Identity
from altq.transforms.kronecker import Kronecker
from altq.transforms.scaling import Scaled, Scaling
from altq.transforms.transform import Transform
from kernels.cpu.activations import BITS


class PackedSite(NamedTuple):
    """The weights of a site's projections, one below the other."""

    codes: Tensor  # int8 [d_out, d_in]
    scale: Tensor  # [d_out, 1]
    bias: Tensor | None  # [d_out]
    columns: list[slice]  # of the outputs, for each projection


def pack_site(site: Site) -> PackedSite:
    """Join the projections of a site.

    ValueError where weights or activations are not quantized, and for weights in groups or with zero points.
    """
    quantizers = site.quantizers
    if quantizers.weights.is_identity or quantizers.activations.is_identity:
        raise ValueError(
            f"packed products need quantized weights and activations; here weights have {quantizers.weights.bits} bits "
            f"and activations {quantizers.activations.bits}"
        )
    if problem := beyond_rows(quantizers.weights):
        raise ValueError(f"packed products know no {problem}; run this checkpoint without packed kernels")
    weights = [weight_codes(name, site.tensors, quantizers.weights) for name in site.names]
    rows = [len(weight.codes) for weight in weights]
    ends = list(accumulate(rows))
    return PackedSite(
        torch.cat([weight.codes for weight in weights]),
        torch.cat([weight.grid.scale for weight in weights]),
        _bias(site, rows),
        [slice(end - n, end) for n, end in zip(rows, ends, strict=True)],
    )


def beyond_cpu_kernels(quantizers: Quantizers) -> str | None:
    """Say what the CPU kernels do not know of a sublayer's quantizers; None for nothing."""
    weights, activations = quantizers.weights, quantizers.activations
    for operand, bits in (("weights", weights.bits), ("activations", activations.bits)):
        if bits not in BITS:
            return f"{operand} of {bits} bits"
    if activations.asymmetric and activations.bits == 8:
        return "activations of 8 bits with zero points"
    return beyond_rows(weights)


def beyond_rows(weights: Quantizer) -> str | None:
    """Say what a quantizer of weights has besides a scale a row; None for nothing."""
    if weights.group is not None:
        return f"weights in groups of {weights.group} channels"
    return "weights with zero points" if weights.asymmetric else None


def beyond_factors(kind: str) -> str | None:
    """Say what a transform, by the name of its class, has besides factors; None for nothing."""
    return "a scaling that stays online" if kind in (Scaling.__name__, Scaled.__name__) else None


def layer_products(layer: Callable[[Tensor], Tensor], packed: PackedSite) -> Products:
    """One call of `layer` for all projections of a site; each takes its columns of the outputs."""
    return Products(layer, _columns, [Operand(columns, None) for columns in packed.columns])


def _columns(outputs: Tensor, columns: slice) -> Tensor:
    return outputs[..., columns]


def _bias(site: Site, rows: list[int]) -> Tensor | None:
    """The biases of a site's projections one behind the other, zeros where one has none; None where none has."""
    biases = [site.tensors.get(f"{name}.bias") for name in site.names]
    given = next((bias for bias in biases if bias is not None), None)
    if given is None:
        return None
    parts = (given.new_zeros(n) if bias is None else bias for bias, n in zip(biases, rows, strict=True))
    return torch.cat([part.float() for part in parts])


def factors_of(transform: Transform) -> tuple[Tensor | None, Tensor | None]:
    """The Kronecker factors of an online transform, None for an identity; ValueError for one without factors."""
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
