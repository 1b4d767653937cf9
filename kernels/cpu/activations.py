"""Options of the quantizer of activations: bits, clipping factors, and a scale of either sign or a zero point."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.reference.scale import largest_code

BITS = (2, 3, 4, 8)
"""Widths of codes that the kernels know. In memory a weight of 2 or 3 bits takes 4."""


@dataclass(frozen=True)
class Activations:
    """The quantizer of a layer's input: a scale for each token, after the transform.

    clip: one factor of the largest magnitude, or [2] of the minimum and the maximum. signed: the scale is negative
    where the largest magnitude is positive. asymmetric: codes have a zero point (then at most 4 bits).
    """

    bits: int
    clip: Tensor | float = 1.0
    signed: bool = True
    asymmetric: bool = False

    def __post_init__(self) -> None:
        check_bits("activations", self.bits)
        if self.asymmetric and self.bits == 8:
            raise ValueError(
                "activations of 8 bits with a zero point do not fit the kernels' signed bytes; give 2 to 4"
            )

    def clips(self) -> tuple[float, float]:
        """Factors of the minimum and the maximum; without a zero point they are over the largest code, as kernels read it."""
        clip = torch.as_tensor(self.clip, dtype=torch.float32)
        if not self.asymmetric:
            clip = clip / largest_code(self.bits)
        low, high = clip.reshape(-1).expand(2).tolist() if clip.numel() == 1 else clip.flatten().tolist()
        return low, high


def check_bits(operand: str, bits: int) -> None:
    """ValueError, in the name of the operand, for a width that the kernels do not know."""
    if bits not in BITS:
        raise ValueError(f"the kernels know {operand} of {', '.join(map(str, BITS))} bits, not of {bits}")
