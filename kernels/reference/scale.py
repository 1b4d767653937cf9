"""The scale of symmetric codes, of either sign: its one definition in Python, also for altq's quantizers.

The C and the Triton kernels need forms of their own (`symmetric_range` in kernels/cpu/source/quantize.h; `_largest` and
`_quantize_tile` in kernels/triton/kronecker.py). tests/kernels/test_scale.py holds them to this one, bit for bit.
"""

import torch
from torch import Tensor


def largest_code(bits: int) -> int:
    """The largest signed code of `bits` bits; the smallest lies one step further down."""
    return (1 << bits - 1) - 1


def signed_peak(x: Tensor) -> Tensor:
    """The entry of largest magnitude of each row, with its sign: [..., d] -> [..., 1]; the negative one of two."""
    highest, lowest = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    return torch.where(highest > -lowest, highest, lowest)


def symmetric_scale(peak: Tensor, factor: Tensor | float, *, signed: bool) -> Tensor:
    """The scale of rows whose entry of largest magnitude is `peak`; a row of zeros gets scale 1.

    factor: the clipping factor over the largest code; it broadcasts with the peaks. signed: the scale
    is negative where the peak is positive, so that the peak falls on the longer side of the codes. Codes are 0 in a row
    of zeros, and nothing divides by 0.
    """
    scale = (-peak if signed else peak.abs()) * factor
    return torch.where(scale != 0, scale, 1.0)
