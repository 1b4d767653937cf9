"""The arithmetic of a quantized linear layer: a product of integer codes, then the scales of tokens and channels."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from altq.quantizers.uniform import asymmetric_range, quantize, quantize_asymmetric, symmetric_scale
from altq.runtime.precision import reduced_products


class Codes(NamedTuple):
    """A tensor as codes times scale; codes are integers held as floats."""

    codes: Tensor  # [..., d]
    scale: Tensor  # [..., 1]


def dequantized(x: Codes | Tensor) -> Tensor:
    """The values of x; a tensor that is not quantized as it is."""
    return x.codes * x.scale if isinstance(x, Codes) else x


def quantize_tokens(x: Tensor, bits: int, clip: Tensor, *, signed: bool, asymmetric: bool) -> Codes:
    """Codes with a scale for each token, and with a zero point (taken off the codes) where asymmetric: [..., d]."""
    if asymmetric:
        scale, zero = asymmetric_range(x, bits, clip.expand(2))
        return Codes(quantize_asymmetric(x, scale, zero, bits), scale)
    scale = symmetric_scale(x, bits, clip, signed=signed)
    return Codes(quantize(x, scale, bits), scale)


def integer_linear(x: Codes, weight: Codes) -> Tensor:
    """x W^T from codes [..., d_in] and [d_out, d_in]: exact up to the scales, since small integers have no rounding."""
    with reduced_products():
        product = F.linear(x.codes, weight.codes)
    return product.mul_(x.scale).mul_(weight.scale.T)
