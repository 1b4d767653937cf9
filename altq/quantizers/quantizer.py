"""The quantizers of a sublayer: of its weights, of the inputs of its projections, of its keys and values."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from altq.experiment.setting import FULL_PRECISION_BITS, Setting
from altq.quantizers.integer import Codes
from altq.quantizers.uniform import (
    asymmetric_range,
    fake_quantize,
    fake_quantize_asymmetric,
    quantize,
    quantize_asymmetric,
    symmetric_scale,
)


@dataclass(frozen=True)
class Quantizer:
    """Uniform codes of the last axis, a scale for each row: token, head or output channel; at 16 bits the identity.

    signed: scales may be negative, so that the longer side of Eq. 2's codes lies where the largest magnitude is.
    asymmetric: codes from the smallest to the largest value, with a zero point. A clipping factor stands for the share
    of the largest magnitude [..., 1], of an asymmetric quantizer for those of the smallest and the largest value
    [..., 2], or one for both.
    """

    bits: int
    signed: bool = False
    asymmetric: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether tensors are left in full precision."""
        return self.bits == FULL_PRECISION_BITS

    def scale(self, x: Tensor, clip: Tensor | float) -> Tensor:
        """The symmetric scale of each row, with gradients: [..., d] -> [..., 1]."""
        return symmetric_scale(x, self.bits, clip, signed=self.signed)

    def codes(self, x: Tensor, clip: Tensor) -> Codes | Tensor:
        """The codes of x [..., d] and their scales, the zero point taken off; x itself at 16 bits."""
        if self.is_identity:
            return x
        if self.asymmetric:
            scale, zero = asymmetric_range(x, self.bits, _both_sides(clip))
            return Codes(quantize_asymmetric(x, scale, zero=zero, bits=self.bits), scale)
        scale = self.scale(x, clip)
        return Codes(quantize(x, scale, self.bits), scale)

    def fake(self, x: Tensor, clip: Tensor) -> Tensor:
        """The values that the codes of x [..., d] stand for, with straight-through gradients; x itself at 16 bits."""
        if self.is_identity:
            return x
        if self.asymmetric:
            return fake_quantize_asymmetric(x, self.bits, _both_sides(clip))
        return fake_quantize(x, self.scale(x, clip), self.bits)


def _both_sides(clip: Tensor) -> Tensor:
    return clip.expand(*clip.shape[:-1], 2)


@dataclass(frozen=True)
class Quantizers:
    """The quantizers of one sublayer; `keys` and `values` are those of its cache."""

    weights: Quantizer
    activations: Quantizer
    keys: Quantizer
    values: Quantizer

    @classmethod
    def at(cls, setting: Setting, *, signed: bool, asymmetric: bool = False) -> Self:
        """Quantizers of a setting: `signed` weights and activations, `asymmetric` activations, an asymmetric cache."""
        return cls(
            Quantizer(setting.weights, signed=signed),
            Quantizer(setting.activations, signed=signed, asymmetric=asymmetric),
            Quantizer(setting.keys, asymmetric=True),
            Quantizer(setting.values, asymmetric=True),
        )

    @property
    def options(self) -> dict[str, bool]:
        """Options of `at` besides the setting, as banks and checkpoints store them."""
        return {"signed": self.activations.signed, "asymmetric": self.activations.asymmetric}

    def of_site(self, site: str) -> Quantizer:
        """The quantizer of a site: `key` and `value` are the cache's, all others inputs of projections."""
        return {"key": self.keys, "value": self.values}.get(site, self.activations)
