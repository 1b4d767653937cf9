"""The quantized linear layer on torch's integer product, for machines that cannot compile or run the kernels.

Its weights take a byte each, whatever their bits.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.cpu.factors import Factors
from kernels.reference.scale import signed_peak, symmetric_scale

if TYPE_CHECKING:
    from kernels.cpu.activations import Activations


class TorchLayer:
    """As kernels.cpu.linear.QuantizedLinear, from checked arguments; x is contiguous float32 [..., d_in]."""

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        factors: Factors,
        activations: "Activations",
    ) -> None:
        self._columns = codes.T.contiguous()  # [d_in, d_out]
        self._scale, self._bias = scale, bias
        self._factors = factors
        self._activations = activations
        self._clips = activations.clips()
        self.weight_bytes = codes.nbytes + scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        codes, scale = self.quantize(x)
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self._columns.shape[1])
        product = torch._int_mm(codes.view(-1, codes.shape[-1]), self._columns)
        y = product.float().view(*x.shape[:-1], -1) * scale * self._scale
        return y if self._bias is None else y + self._bias

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """int8 codes [..., d_in] less their zero point, scales [..., 1]; a token that is not finite has scale NaN."""
        values = self._transform(x)
        if not x.numel():
            return values.to(torch.int8), values.new_empty(*x.shape[:-1], 1)
        (low_clip, high_clip), bits = self._clips, self._activations.bits
        if self._activations.asymmetric:
            low = values.amin(-1, keepdim=True).clamp(max=0) * low_clip
            high = values.amax(-1, keepdim=True).clamp(min=0) * high_clip
            span, levels = high - low, (1 << bits) - 1
            scale = torch.where(span > 0, span, 1.0) / levels
            least = -(-low / scale).round()
            most = least + levels
        else:
            scale = symmetric_scale(signed_peak(values), low_clip, signed=self._activations.signed)
            most = torch.full_like(scale, (1 << bits - 1) - 1)
            least = -most - 1
        finite = values.isfinite().all(-1, keepdim=True) & scale.isfinite()
        codes = torch.minimum(torch.maximum((values / scale).round_(), least), most)
        return torch.where(finite, codes, 0).to(torch.int8), torch.where(finite, scale, torch.nan)

    def _transform(self, x: Tensor) -> Tensor:
        d1, d2, left, right = self._factors
        blocks = x.view(-1, d1, d2)
        if self._factors.has_runs:
            blocks = (blocks.transpose(0, 1) @ right).transpose(0, 1)
        elif right is not None:
            blocks = blocks @ right
        if left is not None:
            blocks = left @ blocks
        return blocks.reshape(x.shape)
