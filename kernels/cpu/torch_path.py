"""The quantized linear layer on torch's integer product, for machines that cannot compile or run the kernels.

Its weights take a byte each, those of 8 bits two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.cpu.factors import Factors
from kernels.reference.scale import signed_peak, symmetric_scale

if TYPE_CHECKING:
    from kernels.cpu.activations import Activations


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which torch computes with one thread.

    How its libraries split a product of floats among threads, and with it the order of the sums, is theirs to choose:
    on some processors every number of threads gives other bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TorchLayer:
    """Fallback of kernels.cpu.linear.QuantizedLinear, from checked arguments; x is contiguous float32 [..., d_in].

    The transform is computed by one thread, the product of codes, which is exact, by all.
    """

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        factors: Factors,
        activations: "Activations",
    ) -> None:
        self._columns = _within_four_bits(codes).T.contiguous()  # [d_in, d_out or 2 d_out]
        self._scale, self._bias = scale, bias
        self._factors = factors
        self._activations = activations
        self._clips = activations.clips()
        self.weight_bytes = self._columns.nbytes + scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        codes, scale = self.quantize(x)
        if not x.numel():
            return x.new_empty(*x.shape[:-1], len(self._scale))
        product = torch._int_mm(codes.view(-1, codes.shape[-1]), self._columns)
        if product.shape[1] > len(self._scale):
            low, high = product.chunk(2, dim=1)
            product = low + 16 * high
        y = product.float().view(*x.shape[:-1], -1) * scale * self._scale
        return y if self._bias is None else y + self._bias

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """int8 codes [..., d_in] less their zero point, scales [..., 1]; a token that is not finite has scale NaN."""
        with one_thread():
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


def _within_four_bits(codes: Tensor) -> Tensor:
    """The codes [d_out, d_in] where all lie from -8 to 7; otherwise low and high with low + 16 high, [2 d_out, d_in].

    On processors without VNNI torch's integer product adds two products of bytes in 16 bits, which 8-bit weights
    overflow: it gives the largest number that fits, and no error. Those of four bits never reach it.
    """
    if int(codes.min()) >= -8 and int(codes.max()) <= 7:
        return codes
    wide = codes.to(torch.int16)
    high = wide + 8 >> 4
    return torch.cat((wide - 16 * high, high)).to(torch.int8)
