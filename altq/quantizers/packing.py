"""Packing signed integer codes of 2 to 8 bits into bytes, and unpacking them.

Codes are two's complement, element 0 in the lowest bits of byte 0:

- 8 bits (also 5, 6 and 7): one code a byte;
- 4 bits: two codes a byte; 2 bits: four codes a byte;
- 3 bits: a plane of the two low bits, packed as 2-bit codes, followed by a plane of the sign bits, eight a byte.

Each plane is padded with zero bits to whole bytes along the last axis.
"""

import torch
from torch import Tensor

# The widths of the planes a code is split into, lowest bits first.
_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (8,), 6: (8,), 7: (8,), 8: (8,)}


def packed_length(length: int, bits: int) -> int:
    """The number of bytes that `length` codes of `bits` bits take; ValueError unless bits is 2 to 8."""
    return sum(_plane_length(length, width) for width in _planes(bits))


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack signed codes along the last axis.

    codes: int8 [..., length], each in [-2^(bits-1), 2^(bits-1) - 1]. Returns uint8 [..., packed_length(length, bits)].
    Raises ValueError for another dtype, for a scalar, or for a code that does not fit.
    """
    planes = _planes(bits)
    if codes.dtype != torch.int8 or codes.dim() == 0:
        raise ValueError(f"packing needs int8 codes with at least one axis, not {codes.dtype} {list(codes.shape)}")
    half = 1 << (bits - 1)
    if codes.numel() and (int(codes.min()) < -half or int(codes.max()) >= half):
        raise ValueError(
            f"codes from {int(codes.min())} to {int(codes.max())} do not fit in {bits} bits ({-half} to {half - 1})"
        )
    unsigned = codes.view(torch.uint8)
    packed, shift = [], 0
    for width in planes:
        packed.append(_pack_plane((unsigned >> shift) & ((1 << width) - 1), width))
        shift += width
    return torch.cat(packed, dim=-1)


def unpack_codes(packed: Tensor, bits: int, length: int) -> Tensor:
    """The int8 codes [..., length] that `pack_codes` packed into uint8 [..., packed_length(length, bits)].

    Raises ValueError where dtype or size of `packed` cannot have come from `length` codes of `bits` bits.
    """
    planes = _planes(bits)
    if packed.dtype != torch.uint8 or packed.dim() == 0:
        raise ValueError(f"unpacking needs uint8 with at least one axis, not {packed.dtype} {list(packed.shape)}")
    if length < 0 or packed.shape[-1] != packed_length(length, bits):
        raise ValueError(
            f"packed codes {list(packed.shape)} do not hold {length} codes of {bits} bits in the last axis; "
            f"that takes {packed_length(max(length, 0), bits)} bytes"
        )
    sizes = [_plane_length(length, width) for width in planes]
    unsigned, shift = torch.zeros((*packed.shape[:-1], length), dtype=torch.uint8, device=packed.device), 0
    for plane, width in zip(packed.split(sizes, dim=-1), planes, strict=True):
        unsigned |= _unpack_plane(plane, width, length) << shift
        shift += width
    # Moving the sign bit to the top and back copies it into the unused high bits.
    spare = 8 - shift
    return (unsigned << spare).view(torch.int8) >> spare


def _planes(bits: int) -> tuple[int, ...]:
    if bits not in _PLANES:
        raise ValueError(f"codes of {bits} bits cannot be packed; give 2 to 8 bits")
    return _PLANES[bits]


def _plane_length(length: int, width: int) -> int:
    return -(-length * width // 8)


def _pack_plane(values: Tensor, width: int) -> Tensor:
    """uint8 values of `width` bits [..., length] -> uint8 [..., ceil(length * width / 8)]."""
    per_byte = 8 // width
    values = torch.nn.functional.pad(values, (0, -values.shape[-1] % per_byte))
    packed = torch.zeros_like(values[..., ::per_byte])
    for position in range(per_byte):
        packed |= values[..., position::per_byte] << (position * width)
    return packed


def _unpack_plane(packed: Tensor, width: int, length: int) -> Tensor:
    per_byte = 8 // width
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
    values = (packed.unsqueeze(-1) >> shifts) & ((1 << width) - 1)  # [..., bytes, per_byte]
    return values.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)[..., :length]
