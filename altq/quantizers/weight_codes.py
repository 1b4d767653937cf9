"""A weight as integer codes, and the grid of values that they stand for: scales and zero points of rows or groups."""

from dataclasses import dataclass

import torch
from torch import Tensor

from altq.quantizers.groups import join_groups, num_groups, split_groups, spread_groups
from altq.quantizers.integer import Codes
from altq.quantizers.uniform import code_range


@dataclass(frozen=True)
class WeightGrid:
    """The values (code - zero) * scale that a weight may have.

    bits: of a code, which lies in [-2^(bits-1), 2^(bits-1) - 1]. scale: [d_out, groups], of either sign. zero: the code
    that stands for 0, int8 [d_out, groups]; None where it is 0 everywhere. group: channels of a group; None for a group
    that is the whole row.
    """

    bits: int
    scale: Tensor
    zero: Tensor | None = None
    group: int | None = None

    def round(self, weight: Tensor) -> "WeightCodes":
        """Round a weight [d_out, d_in] to the nearest values."""
        low, high = code_range(self.bits)
        ratio = split_groups(weight, self.group) / self._of_groups(self.scale)
        ratio.round_()
        if self.zero is not None:
            ratio += self._of_groups(self.zero)
        codes = join_groups(ratio.clamp_(low, high), weight.shape[-1], self.group)
        return WeightCodes(codes.to(torch.int8), self)

    def _of_groups(self, values: Tensor) -> Tensor:
        return values if self.group is None else values.unsqueeze(-1)


@dataclass(frozen=True)
class WeightCodes:
    """A weight of codes, int8 [d_out, d_in], on its grid; ValueError where they do not go together."""

    codes: Tensor
    grid: WeightGrid

    def __post_init__(self) -> None:
        expected = [len(self.codes), num_groups(self.codes.shape[1], self.grid.group)]
        for name, tensor in (("scales", self.grid.scale), ("zero points", self.grid.zero)):
            if tensor is not None and list(tensor.shape) != expected:
                raise ValueError(f"codes {list(self.codes.shape)} need {name} {expected}, not {list(tensor.shape)}")

    def dequantized(self) -> Tensor:
        """The values [d_out, d_in]."""
        return self._less_zero() * self._spread(self.grid.scale)

    def factored(self) -> Codes | Tensor:
        """Codes less their zero point, as floats, and a scale a row; the values where rows have several scales."""
        if self.grid.group is not None:
            return self.dequantized()
        return Codes(self._less_zero().float(), self.grid.scale)

    def _less_zero(self) -> Tensor:
        zero = self.grid.zero
        return self.codes if zero is None else self.codes.to(torch.int16) - self._spread(zero)

    def _spread(self, values: Tensor) -> Tensor:
        return spread_groups(values, self.codes.shape[1], self.grid.group)
