"""Packed codes, as every kernel reads and writes them: element 0 in the lowest bits of byte 0.

- 8 bits: one code a byte; 4 bits: two codes a byte; 2 bits: four codes a byte;
- 3 bits: a plane of the two low bits, packed as 2-bit codes, followed by a plane of the third bits, eight a byte.

Signed codes are two's complement; unsigned ones (the cache) lie in the same bits.
"""

import torch
from torch import Tensor

BITS = (2, 3, 4, 8)
"""The widths of codes that the kernels pack."""

# The widths of the planes a code is split into, lowest bits first.
_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 8: (8,)}


def check_bits(bits: int) -> None:
    """Raise ValueError for a number of bits that the kernels do not know."""
    if bits not in BITS:
        raise ValueError(f"the kernels know codes of {', '.join(map(str, BITS))} bits, not of {bits}")


def packed_length(length: int, bits: int) -> int:
    """The bytes that `length` codes of `bits` bits take.

    Raises ValueError for unknown bits, and for a length that leaves a byte of a plane half empty: an odd one at 4 bits.
    """
    check_bits(bits)
    per_byte = 8 // min(_PLANES[bits])
    if length % per_byte:
        raise ValueError(f"{length} codes of {bits} bits do not fill whole bytes; pad them to a multiple of {per_byte}")
    return length * bits // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Integer codes [..., length] that fit in `bits` bits -> uint8 [..., packed_length(length, bits)]."""
    packed_length(codes.shape[-1], bits)
    unsigned, planes, shift = codes.to(torch.int8).view(torch.uint8), [], 0
    for width in _PLANES[bits]:
        plane = (unsigned >> shift) & ((1 << width) - 1)
        packed = torch.zeros_like(plane[..., :: 8 // width])
        for position in range(8 // width):
            packed |= plane[..., position :: 8 // width] << (position * width)
        planes.append(packed)
        shift += width
    return torch.cat(planes, dim=-1)


def unpack(packed: Tensor, bits: int, *, signed: bool) -> Tensor:
    """The codes of `pack`: uint8 [..., bytes] -> int16 [..., length]."""
    check_bits(bits)
    length = packed.shape[-1] * 8 // bits
    codes, shift = torch.zeros(*packed.shape[:-1], length, dtype=torch.int16, device=packed.device), 0
    for plane, width in zip(packed.split([length * w // 8 for w in _PLANES[bits]], -1), _PLANES[bits], strict=True):
        shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
        values = (plane.unsqueeze(-1) >> shifts) & ((1 << width) - 1)  # [..., bytes, codes a byte]
        codes |= values.flatten(-2).to(torch.int16) << shift
        shift += width
    if signed:
        codes -= (codes >> (bits - 1)) << bits
    return codes
