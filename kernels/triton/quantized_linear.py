"""A quantized linear layer on the GPU kernels, for weights that were rounded elsewhere; `kernels.cpu` has that of processors.

Two launches: transform and quantization of each token, then the product of codes with scales and bias. Inputs and
factors are rounded to float16 on the way, so that codes may differ from those of float32 transforms where a value lies
near the middle of two; a value beyond 65504 makes its token NaN.
"""

import math

import torch
from torch import Tensor

from kernels.reference.packing import BITS, pack
from kernels.triton.configurations import MOST_SHARED_TOKENS, WIDEST_TRANSFORM, padded_sides
from kernels.triton.kronecker import factor_sizes, transform_quantize
from kernels.triton.linear import linear
from kernels.triton.product import MAX_CHANNELS, Workspace, empty_workspace


class GrowingWorkspace:
    """The workspace that the layers of a model share on one stream, as large as the widest of them needs."""

    def __init__(self, device: torch.device | str) -> None:
        self._device, self._rows = device, 0
        self.workspace: Workspace | None = None

    def reserve(self, num_rows: int) -> None:
        """Make room for a product of `num_rows` rows."""
        if num_rows > self._rows:
            self.workspace, self._rows = empty_workspace(MOST_SHARED_TOKENS, num_rows, self._device), num_rows


def obstacle(
    d_in: int,
    left: Tensor | None,
    right: Tensor | None,
    *,
    weight_bits: int,
    bits: int,
    asymmetric: bool,
) -> str | None:
    """Reason that keeps the kernels from a layer with these channels, factors and widths of codes; None for nothing.

    left [d1, d1], right [d2, d2] or one for each run of channels [d1, d2, d2]; bits: of the inputs' codes.
    """
    for operand, width in (("weights", weight_bits), ("activations", bits)):
        if width not in BITS:
            return f"{operand} of {width} bits"
    if asymmetric:
        return "activations with a zero point"
    if right is not None and right.dim() == 3:
        return "a transform with a factor for each run of channels"
    if d_in % 2 or d_in > MAX_CHANNELS:
        return f"{d_in} input channels, of which there must be an even number, at most {MAX_CHANNELS}"
    d1, d2 = factor_sizes(d_in, left, right)
    if d2 % 2:
        return f"factors of {d1} and {d2}, since rows of {d2} codes fill no whole bytes"
    if math.prod(padded_sides(d1, d2)) > WIDEST_TRANSFORM:
        return f"factors of {d1} and {d2}, whose padded product is more than {WIDEST_TRANSFORM}"
    return None


class QuantizedLinear:
    """y = Q(x (L (x) R)) W^T + bias for packed weights W: x [..., d_in] -> float32 [..., d_out], on the codes' device.

    codes: int8 [d_out, d_in] of `weight_bits` bits, scale: [d_out] or [d_out, 1]. bits, clip and signed are of the
    quantizer of x: width of its codes, its clipping factor (one number), and whether scales may be negative. left [d1, d1],
    right [d2, d2]: factors of the transform, None for the identity. bias: [d_out]. In memory a weight of 2 or 3 bits takes
    4. `obstacle` says which layers the kernels cannot do; they are refused here with ValueError.
    """

    variant = "triton"

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        *,
        weight_bits: int,
        bits: int,
        clip: Tensor,
        signed: bool,
        workspace: GrowingWorkspace,
        left: Tensor | None = None,
        right: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.d_out, self.d_in = codes.shape
        widths = {"weight_bits": weight_bits, "bits": bits}
        if problem := obstacle(self.d_in, left, right, **widths, asymmetric=False):
            raise ValueError(f"the GPU kernels do not know {problem}")
        device = codes.device
        self._weight_width, self._width = (8 if width == 8 else 4 for width in (weight_bits, bits))
        self._weight = pack(codes, self._weight_width)
        self._scales = scale.detach().reshape(-1).float().contiguous()
        self._left, self._right = (
            None if factor is None else factor.detach().to(device, torch.float16).contiguous()
            for factor in (left, right)
        )
        self._bias = None if bias is None else bias.detach().to(device, torch.float32).contiguous()
        self._bits, self._signed = bits, signed
        self._clips = clip.detach().to(device, torch.float32).reshape(1)
        self._workspace = workspace
        workspace.reserve(self.d_out)
        self.weight_bytes = self._weight.nbytes + self._scales.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        codes, scales = self.quantize(x)
        y = linear(
            codes, scales, self._weight, self._scales, bits=self._width, weight_bits=self._weight_width,
            bias=self._bias, dtype=torch.float32, workspace=self._workspace.workspace,
        )  # fmt: skip
        return y.view(*x.shape[:-1], self.d_out)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Packed codes of the transformed x, uint8 [1, tokens, bytes], and their scales [1, tokens]."""
        tokens = x.detach().reshape(-1, self.d_in).to(torch.float16)
        return transform_quantize(
            tokens, self._left, self._right, self._clips, bits=self._bits, width=self._width, signed=self._signed
        )
