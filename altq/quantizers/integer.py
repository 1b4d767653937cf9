"""The arithmetic of a quantized linear layer: a product of integer codes, then the scales of tokens and channels."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from altq.runtime.precision import reduced_products


class Codes(NamedTuple):
    """A tensor as codes times scale; codes are integers held as floats."""

    codes: Tensor  # [..., d]
    scale: Tensor  # [..., 1]


def dequantized(x: Codes | Tensor) -> Tensor:
    """Dequantize x; a tensor that is not quantized is returned unchanged."""
    return x.codes * x.scale if isinstance(x, Codes) else x


def quantized_linear(x: Codes | Tensor, weight: Codes | Tensor) -> Tensor:
    """x W^T of [..., d_in] and [d_out, d_in]; of codes exact up to the scales: small integers have no rounding."""
    if not (isinstance(x, Codes) and isinstance(weight, Codes)):
        return F.linear(dequantized(x), dequantized(weight))
    with reduced_products():
        product = F.linear(x.codes, weight.codes)
    return product.mul_(x.scale).mul_(weight.scale.T)
