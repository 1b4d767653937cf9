"""Codes inside kernels: rounding, packing, and unpacking for tensor cores."""

import triton
import triton.language as tl

# 1.5 * 2^23: adding it to a float32 of magnitude below 2^22 rounds half to even and leaves the integer, in two's
# complement, in the lowest bits. The interpreter and the GPU round alike, where a call of libdevice fails in the first.
_ROUNDING: tl.constexpr = tl.constexpr(12582912.0)


@triton.jit
def round_half_even(x):
    """The nearest integer of a float32 below 2^22, as a float32."""
    return (x + _ROUNDING) - _ROUNDING


@triton.jit
def integer_bits(x):
    """The nearest integer of a float32 below 2^22, as an int32 whose lowest 16 bits alone mean something."""
    return (x + _ROUNDING).to(tl.int32, bitcast=True)


@triton.jit
def pack_plane(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """int32 [ROWS, COLUMNS] -> uint8 [ROWS, COLUMNS * WIDTH / 8] of the lowest WIDTH bits (1, 2, 4 or 8) of each.

    Neighbours are joined two by two, which doubles the width until it is that of a byte.
    """
    if WIDTH == 8:
        packed = values
    else:
        first, second = tl.split(tl.reshape(values & ((1 << WIDTH) - 1), (ROWS, COLUMNS // 2, 2)))
        packed = first | (second << WIDTH)
        if WIDTH <= 2:
            first, second = tl.split(tl.reshape(packed, (ROWS, COLUMNS // 4, 2)))
            packed = first | (second << (2 * WIDTH))
        if WIDTH == 1:
            first, second = tl.split(tl.reshape(packed, (ROWS, COLUMNS // 8, 2)))
            packed = first | (second << (4 * WIDTH))
    return packed.to(tl.uint8)


@triton.jit
def halves(packed, BITS: tl.constexpr, ASSEMBLY: tl.constexpr):
    """The codes at even and at odd places, int8 like `packed`, for a dot product: it may sum in any order.

    4 bits: `packed` is int8, two codes each; the halves are 16 times the codes, because moving a nibble to the top of
    its byte keeps its sign for free: `x << 4` and `x & 0xF0`, four bytes at a time. 8 bits: `packed` is int16, two
    codes each.
    """
    if BITS == 8:
        even, odd = packed.to(tl.int8), (packed >> 8).to(tl.int8)
    elif ASSEMBLY:
        even, odd = tl.inline_asm_elementwise(
            "{ .reg .b32 t; shl.b32 t, $2, 4; and.b32 $0, t, 0xF0F0F0F0; and.b32 $1, $2, 0xF0F0F0F0; }",
            "=r,=r,r",
            [packed],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    else:
        even, odd = packed << 4, packed & -16
    return even, odd
