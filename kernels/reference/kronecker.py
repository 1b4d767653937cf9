"""Norm or gate, Kronecker transform, per-token symmetric quantization and packing: the input of a quantized linear."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.reference.packing import check_bits, pack
from kernels.reference.scale import largest_code, signed_peak, symmetric_scale


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight in float32, rounded once to x's type: [..., d], weight [d]."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight.float()).to(x.dtype)


def gated(gate_up: Tensor) -> Tensor:
    """SiLU(gate) * up in float32, rounded once, for gate and up side by side: [..., 2 d] -> [..., d]."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def kronecker(x: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """x (L (x) R) = L^T X R of X [d1, d2], in float32: [..., d1 * d2]; a factor that is None is the identity.

    X R is rounded to x's type, as it must be before a tensor core multiplies it again. At least one factor is given.
    """
    d1 = len(left) if left is not None else x.shape[-1] // len(right)
    blocks = x.reshape(-1, d1, x.shape[-1] // d1)
    if right is not None:
        blocks = (blocks.float() @ right.float()).to(x.dtype)
    blocks = blocks.float()
    if left is not None:
        blocks = left.float().T @ blocks
    return blocks.view(x.shape)


def transform_quantize(
    x: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    clips: Tensor,
    *,
    bits: int,
    width: int | None = None,
    signed: bool = True,
    norm: Tensor | None = None,
    epsilon: float = 1e-5,
    gate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Quantize x (L (x) R) for each token, once for each clip.

    x: [tokens, d], with `gate` [tokens, 2 d] of which SiLU(first half) * second half is taken; d = d1 d2.
    left [d1, d1], right [d2, d2]: factors, None for the identity. clips: float32 [outputs], the share of the largest
    magnitude that the largest code stands for. bits: range of the codes, 2, 3, 4 or 8; width: bits a code takes in
    memory (`bits` unless given; the linears read 4 and 8). signed: the scale is negative where the largest magnitude is
    positive, so that it falls on the longer side of the codes. norm: weight [d] of an RMSNorm of x, with its epsilon.

    Returns codes uint8 [outputs, tokens, d * width / 8] and scales float32 [outputs, tokens]: code = clamp(round half
    even(value / scale)). A row of zeros has scale 1. A row with a NaN or an infinity has scale NaN and codes without
    meaning: whatever is computed from it is NaN, no finite number comes of it, and the host need not look.
    Raises ValueError for bits or a width that the kernels do not know, and where codes do not fill whole bytes.
    """
    width = bits if width is None else width
    check_bits(bits)
    if gate:
        x = gated(x)
    if norm is not None:
        x = rms_norm(x, norm, epsilon)
    values = x.float() if left is None and right is None else kronecker(x, left, right)
    scales = token_scales(values, clips, bits, signed=signed)
    top = largest_code(bits)
    codes = (values / scales.unsqueeze(-1)).round().clamp(-top - 1, top).nan_to_num(0)
    return pack(codes.to(torch.int8), width), scales


def token_scales(values: Tensor, clips: Tensor, bits: int, *, signed: bool) -> Tensor:
    """The scales of `transform_quantize`: float32 [tokens, d], [outputs] -> [outputs, tokens]."""
    factors = clips.float() / largest_code(bits)
    scales = symmetric_scale(signed_peak(values).squeeze(-1), factors.unsqueeze(-1), signed=signed)
    return torch.where(values.isfinite().all(-1), scales, torch.nan)
