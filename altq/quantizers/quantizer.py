"""The quantizers of a sublayer: of its weights, of the inputs of its projections, of its keys and values."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from altq.experiment.setting import FULL_PRECISION_BITS, Setting
from altq.quantizers.groups import join_groups, num_groups, split_groups
from altq.quantizers.integer import Codes
from altq.quantizers.uniform import (
    asymmetric_range,
    code_range,
    fake_quantize,
    fake_quantize_asymmetric,
    lowest_value,
    quantize,
    quantize_asymmetric,
    symmetric_scale,
)
from altq.quantizers.weight_codes import WeightGrid


@dataclass(frozen=True)
class Quantizer:
    """Uniform codes of the last axis, a scale for each row: token, head or output channel; at 16 bits the identity.

    group: of weights, the input channels that share a scale, where that is not the whole row. Then a clipping factor
    has an axis of groups before its last: [..., groups, 1].

    signed: scales may be negative, so that the longer side of Eq. 2's codes lies where the largest magnitude is.
    asymmetric: codes from the smallest to the largest value, with a zero point. A clipping factor stands for the share
    of the largest magnitude [..., 1], of an asymmetric quantizer for those of the smallest and the largest value
    [..., 2], or one for both.
    """

    bits: int
    signed: bool = False
    asymmetric: bool = False
    group: int | None = None

    @property
    def is_identity(self) -> bool:
        """Whether tensors are left in full precision."""
        return self.bits == FULL_PRECISION_BITS

    def scale(self, x: Tensor, clip: Tensor | float) -> Tensor:
        """The symmetric scale of each row, with gradients: [..., d] -> [..., 1]."""
        return symmetric_scale(x, self.bits, clip, signed=self.signed)

    def codes(self, x: Tensor, clip: Tensor) -> Codes | Tensor:
        """The codes of x [..., d] and their scales, the zero point taken off; x itself at 16 bits. Not of groups."""
        assert self.group is None, "weights in groups have a grid"
        if self.is_identity:
            return x
        if self.asymmetric:
            scale, zero = asymmetric_range(x, self.bits, _both_sides(clip))
            return Codes(quantize_asymmetric(x, scale, zero=zero, bits=self.bits), scale)
        scale = self.scale(x, clip)
        return Codes(quantize(x, scale, self.bits), scale)

    def fake(self, x: Tensor, clip: Tensor | float) -> Tensor:
        """The values that the codes of x [..., d] stand for, with straight-through gradients; x itself at 16 bits."""
        if self.is_identity:
            return x
        rows = split_groups(x, self.group)
        if self.asymmetric:
            values = fake_quantize_asymmetric(rows, self.bits, _both_sides(clip))
        else:
            values = fake_quantize(rows, self.scale(rows, clip), self.bits)
        return join_groups(values, x.shape[-1], self.group)

    def clip_shape(self, d_out: int, d_in: int) -> tuple[int, ...]:
        """The shape of the clipping factors of a weight [d_out, d_in]; ValueError for a group wider than its rows."""
        if self.group is not None and self.group > d_in:
            raise ValueError(f"a group of {self.group} channels is wider than the {d_in} channels of the input")
        groups = () if self.group is None else (num_groups(d_in, self.group),)
        return d_out, *groups, 2 if self.asymmetric else 1

    def grid(self, weight: Tensor, clip: Tensor, rows: Tensor | None = None) -> WeightGrid:
        """The grid on which a weight [d_out, d_in] is rounded; not at 16 bits.

        The scale of a group is one of bfloat16, which is what a checkpoint keeps of it: it has float32's range, and
        reads back without error in the type of any model. rows: positive factors [d_out] by which the checkpoint
        multiplies the rows afterwards; it is the product that is one of bfloat16.
        """
        groups = split_groups(weight, self.group)
        if self.asymmetric:
            clip = _both_sides(clip)
            scale, _ = asymmetric_range(groups, self.bits, clip)
        else:
            scale = self.scale(groups, clip)
        if self.group is not None:
            factors = torch.ones_like(weight[:, 0]) if rows is None else rows
            factors = factors.view(-1, 1, 1)
            scale = (scale * factors).bfloat16().to(scale.dtype) / factors
        zero = None
        if self.asymmetric:
            low, high = code_range(self.bits)
            zero = ((-lowest_value(groups, clip) / scale).round() + low).clamp(low, high).to(torch.int8).squeeze(-1)
        scale = scale.squeeze(-1)
        if self.group is None:
            scale, zero = scale.unsqueeze(-1), None if zero is None else zero.unsqueeze(-1)
        return WeightGrid(self.bits, scale, zero, self.group)


def _both_sides(clip: Tensor | float) -> Tensor:
    clip = torch.as_tensor(clip)
    return clip.expand(*clip.shape[:-1], 2)


@dataclass(frozen=True)
class Quantizers:
    """The quantizers of one sublayer; `keys` and `values` are those of its cache."""

    weights: Quantizer
    activations: Quantizer
    keys: Quantizer
    values: Quantizer

    @classmethod
    def at(cls, setting: Setting, *, signed: bool, asymmetric: bool = False, zero_point: bool = False) -> Self:
        """Quantizers of a setting, with an asymmetric cache.

        signed: weights and activations have scales of either sign. asymmetric: activations have a zero point;
        zero_point: weights have one.
        """
        return cls(
            Quantizer(setting.weights, signed=signed, asymmetric=zero_point, group=setting.group),
            Quantizer(setting.activations, signed=signed, asymmetric=asymmetric),
            Quantizer(setting.keys, asymmetric=True),
            Quantizer(setting.values, asymmetric=True),
        )

    @property
    def options(self) -> dict[str, bool]:
        """Options of `at` besides the setting, as banks and checkpoints store them."""
        options = {"signed": self.activations.signed, "asymmetric": self.activations.asymmetric}
        # Named only where they are: the files of all other checkpoints stay what they were before there was a choice.
        return options | ({"zero_point": True} if self.weights.asymmetric else {})

    def of_site(self, site: str) -> Quantizer:
        """The quantizer of a site: `key` and `value` are the cache's, all others inputs of projections."""
        return {"key": self.keys, "value": self.values}.get(site, self.activations)
