"""A quantized linear layer on the CPU: transform, quantization for each token, product of codes, scales and bias."""

import ctypes
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.cpu.activations import Activations, check_bits
from kernels.cpu.factors import prepare_factors
from kernels.cpu.library import TORCH, Layer, default_variant, load_library
from kernels.cpu.torch_path import TorchLayer

_PANEL, _GROUP, _DEPTH_MULTIPLE, _CACHE_LINE, _COLUMN_MULTIPLE = 32, 4, 64, 64, 16  # as in the C sources


class QuantizedLinear:
    """y = Q(x (L (x) R)) W^T + bias for packed weights W: x [..., d_in] -> float32 [..., d_out].

    codes: int8 [d_out, d_in] of `weight_bits` bits, scale: [d_out] or [d_out, 1]. left [d1, d1], right [d2, d2] or one
    for each run of d2 channels [d1, d2, d2]; without either, x is quantized as it is. bias: [d_out]. variant: a name of
    `kernels.cpu.variant.VARIANTS`, or "torch"; the fastest that runs here where none is given.

    A token that is NaN or infinite anywhere gives a row of NaN. The number of threads is torch's; it changes no bit.
    Raises ValueError for other bits, codes that do not fit them, and sizes that do not belong together.
    """

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        *,
        weight_bits: int,
        activations: Activations,
        left: Tensor | None = None,
        right: Tensor | None = None,
        bias: Tensor | None = None,
        variant: str | None = None,
    ) -> None:
        check_bits("weights", weight_bits)
        _check_weights(codes, scale, bias, weight_bits)
        self.d_out, self.d_in = codes.shape
        self.variant = variant or default_variant()
        scale = scale.detach().reshape(-1).float()
        bias = None if bias is None else bias.detach().float()
        factors = prepare_factors(self.d_in, left, right)
        if self.variant == TORCH:
            self._torch = TorchLayer(codes, scale, bias, factors, activations)
            self.weight_bytes = self._torch.weight_bytes
            return
        self._library = load_library(self.variant)
        depth = _multiple(self.d_in, _DEPTH_MULTIPLE)
        width = 8 if weight_bits == 8 else 4
        packed = pack_panels(codes, width, depth)
        rows = (0, -self.d_out % _PANEL)
        # The structure points into these tensors, so they live as long as the layer.
        tensors = {
            "weights": packed,
            "weight_scale": F.pad(scale, rows),
            "bias": None if bias is None else F.pad(bias, rows),
            "left": factors.left,
            "right": None if factors.right is None else F.pad(factors.right, (0, -factors.d2 % _COLUMN_MULTIPLE)),
        }
        self._tensors = {name: None if tensor is None else tensor.contiguous() for name, tensor in tensors.items()}
        low, high = activations.clips()
        self._layer = Layer(
            d_in=self.d_in, d_out=self.d_out, depth=depth, weight_bits=width,
            d1=factors.d1, d2=factors.d2, right_stride=self._tensors["right"].stride(0) if factors.has_runs else 0,
            activation_bits=activations.bits, is_signed=activations.signed, asymmetric=activations.asymmetric,
            low_clip=low, high_clip=high,
            **{name: None if t is None else t.data_ptr() for name, t in self._tensors.items()},
        )  # fmt: skip
        self._address = ctypes.addressof(self._layer)
        self.weight_bytes = packed.nbytes + 4 * self.d_out

    def __call__(self, x: Tensor) -> Tensor:
        if self.variant == TORCH:
            return self._torch(self._checked(x))
        rows = self._checked(x)
        y = torch.empty(*x.shape[:-1], self.d_out)
        tokens = rows.numel() // self.d_in
        if self._library.altq_linear(self._address, rows.data_ptr(), tokens, y.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"no memory for the workspace of a layer of {self.d_in} channels")
        return y

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of the transformed x, int8 [..., d_in], less any zero point, and their scales [..., 1].

        MemoryError where the kernel finds no memory for its rows.
        """
        rows = self._checked(x)
        if self.variant == TORCH:
            return self._torch.quantize(rows)
        tokens, stride = rows.numel() // self.d_in, self._layer.depth + _CACHE_LINE
        codes = torch.empty(tokens, stride, dtype=torch.int8)
        scale, sums = torch.empty(tokens), torch.empty(tokens, dtype=torch.int32)
        if self._library.altq_quantize(
            self._address, rows.data_ptr(), tokens, codes.data_ptr(), stride, scale.data_ptr(), sums.data_ptr(),
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"no memory for the workspace of a layer of {self.d_in} channels")
        return codes[:, : self.d_in].reshape(x.shape), scale.view(*x.shape[:-1], 1)

    def _checked(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in or not x.is_floating_point() or x.device.type != "cpu":
            raise ValueError(
                f"a layer of {self.d_in} channels reads floating-point numbers on the CPU with as many in the last axis, "
                f"not {x.dtype} {list(x.shape)} on {x.device}"
            )
        return x.detach().float().contiguous()


def pack_panels(codes: Tensor, width: int, depth: int) -> Tensor:
    """The weights as source/layer.h lays them out, from int8 codes [d_out, d_in] padded with zeros to `depth`."""
    rows, columns = codes.shape
    padded = F.pad(codes, (0, depth - columns, 0, -rows % _PANEL))
    unsigned = (padded.to(torch.int16) + (1 << width - 1)).to(torch.uint8)
    groups = unsigned.view(-1, _PANEL, depth // _GROUP, _GROUP).transpose(1, 2)  # [panels, groups, 32, 4]
    if width == 8:
        return groups.contiguous()
    return (groups[:, 0::2] | groups[:, 1::2] << 4).contiguous()


def _multiple(number: int, base: int) -> int:
    return math.ceil(number / base) * base


def _check_weights(codes: Tensor, scale: Tensor, bias: Tensor | None, bits: int) -> None:
    if codes.dtype != torch.int8 or codes.dim() != 2 or not codes.numel():
        raise ValueError(f"weights are int8 codes [d_out, d_in], not {codes.dtype} {list(codes.shape)}")
    low, high = int(codes.min()), int(codes.max())
    if low < -(1 << bits - 1) or high >= 1 << bits - 1:
        raise ValueError(f"codes from {low} to {high} do not fit in {bits} bits")
    if scale.numel() != len(codes) or (bias is not None and bias.shape != (len(codes),)):
        shapes = list(scale.shape), None if bias is None else list(bias.shape)
        raise ValueError(
            f"{len(codes)} rows of codes need a scale each (and a bias): scale {shapes[0]}, bias {shapes[1]}"
        )
    if codes.shape[1] > 1 << 16:
        raise ValueError(f"{codes.shape[1]} columns overflow the 32-bit sums of codes; at most {1 << 16}")
