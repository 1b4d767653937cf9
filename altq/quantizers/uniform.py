"""The uniform quantizer with straight-through rounding (Eq. 1-2 of the paper).

Symmetric: codes in [-2^(b-1), 2^(b-1) - 1], a scale for each token (activations) or output channel (weights).
"""

from typing import Any

import torch
from torch import Tensor

from kernels.reference import scale as reference


def code_range(bits: int) -> tuple[int, int]:
    """The smallest and the largest signed code of `bits` bits."""
    return -reference.largest_code(bits) - 1, reference.largest_code(bits)


class _Peak(torch.autograd.Function):
    """The signed entry of largest magnitude of each row, [..., d] -> [..., 1]; its gradient goes to that entry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        peak = reference.signed_peak(x)
        ctx.save_for_backward(x, peak)
        return peak

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, peak = ctx.saved_tensors
        return torch.where(x == peak, grad, 0.0)


def symmetric_scale(x: Tensor, bits: int, clip: Tensor | float = 1.0, *, signed: bool) -> Tensor:
    """The scale that maps clip * max|x| over the last axis to the largest code: [..., d] -> [..., 1].

    The codes of Eq. 2 reach one step further down than up. With `signed`, the scale is negative where the largest
    magnitude is positive, so that it falls on the longer side; this costs nothing at run time. An all-zero row gets
    scale 1: its codes are 0 and nothing divides by 0.
    """
    return reference.symmetric_scale(_Peak.apply(x), clip / code_range(bits)[1], signed=signed)


def quantize(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Integer codes of x, as floats of x's type: round to nearest even, then clamp."""
    return (x / scale).round_().clamp_(*code_range(bits))


class _FakeQuantize(torch.autograd.Function):
    """clamp(round(x / scale + zero)) - zero, times scale. Rounding has gradient one, clamping its own.

    x and its scale are kept for the backward pass, which computes ratio and codes again: of a weight they are as large
    as the weight itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor | None, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale, zero)
        ctx.range = low, high
        return _clamp((x / scale).round_(), zero, low=low, high=high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, scale, zero = ctx.saved_tensors
        ratio = x / scale
        codes = _clamp(ratio.round(), zero, *ctx.range)
        residual = codes - ratio
        inside = residual.abs() <= 0.5
        grad_scale = None
        if ctx.needs_input_grad[1]:
            # d(scale * codes)/d(scale) is codes - ratio where the code follows x, and the clamped code elsewhere.
            grad_scale = torch.where(inside, residual, codes).mul_(grad).sum_to_size(scale.shape)
        return grad * inside, grad_scale, None, None, None


def fake_quantize(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Quantize and dequantize with straight-through gradients for x and its scale."""
    return _FakeQuantize.apply(x, scale, None, *code_range(bits))


def asymmetric_range(x: Tensor, bits: int, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the last axis, [..., 1] each; clip [..., 2] has factors of the smallest and largest."""
    low = lowest_value(x, clip)
    high = x.amax(-1, keepdim=True).clamp(min=0) * clip[..., 1:]
    levels = (1 << bits) - 1
    span = high - low
    scale = torch.where(span > 0, span, torch.ones_like(span)) / levels
    return scale, (-low / scale).detach().round()


def lowest_value(x: Tensor, clip: Tensor) -> Tensor:
    """The low end of an asymmetric range, at most 0: [..., d] and clip [..., 2] -> [..., 1]."""
    return x.amin(-1, keepdim=True).clamp(max=0) * clip[..., :1]


def quantize_asymmetric(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Integer codes of x less the zero point, as floats; codes * scale approximates x."""
    return _clamp_less_zero((x / scale).round_(), zero, low=0, high=(1 << bits) - 1)


def _clamp(rounded: Tensor, zero: Tensor | None, low: int, high: int) -> Tensor:
    return rounded.clamp_(low, high) if zero is None else _clamp_less_zero(rounded, zero, low=low, high=high)


def _clamp_less_zero(codes: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Codes less their zero point, where the codes themselves lie between low and high."""
    return torch.minimum(torch.maximum(codes, low - zero), high - zero)


def fake_quantize_asymmetric(x: Tensor, bits: int, clip: Tensor) -> Tensor:
    """Quantize and dequantize the last axis with a zero point: [..., d], clip [..., 2] for the minimum and the maximum.

    Codes in [0, 2^b - 1]; scale and zero point are of one token and head, as for the cache in FlatQuant.
    """
    return _FakeQuantize.apply(x, *asymmetric_range(x, bits, clip), 0, (1 << bits) - 1)
