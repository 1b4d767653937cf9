"""Norm or gate, Kronecker transform, per-token quantization and packing, in one launch.

Also a Hadamard transform of any size, whose factors are constants, a transform that mixes heads (no right factor), and
plain quantization (no factor).

A program takes a few tokens, each a matrix X [d1, d2]; rows of the tile are (i, token), so that X R is one product for
all of them, and its rows, laid out again as [d1, (token, column)], are the right operand of L^T (X R). The largest
magnitude of a token needs all of its columns: where they do not fit in registers at once (28672 = 128 x 224), they come
in tiles, and these are computed twice, once for the magnitude and once for the codes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.reference.packing import check_bits, packed_length
from kernels.triton.codes import integer_bits, pack_plane
from kernels.triton.configurations import kronecker_tiles
from kernels.triton.launch import check_tensor, launch, target_of


@triton.jit
def _load_input(x, token, rows, columns, stride, D1, D2, num_tokens, GATE: tl.constexpr):
    """float16 [(rows, tokens), columns]: the input, or SiLU(gate) * up of gate and up side by side."""
    place = token.to(tl.int64) * stride + rows * D2
    inside = ((token < num_tokens) & (rows < D1))[:, None] & (columns < D2)[None, :]
    address = x + place[:, None] + columns[None, :]
    values = tl.load(address, inside, 0.0)
    if GATE:
        gate = values.to(tl.float32)
        up = tl.load(address + D1 * D2, inside, 0.0).to(tl.float32)
        values = (gate / (1.0 + tl.exp(-gate)) * up).to(values.dtype)
    return values


@triton.jit
def _inverse_norm(
    x, tokens, stride, num_tokens, epsilon,
    D1: tl.constexpr, D2: tl.constexpr, D1_PADDED: tl.constexpr, D2_PADDED: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """1 / sqrt(mean(x^2) + epsilon) of each token: float32 [TOKENS]."""
    squares = tl.zeros((TOKENS,), tl.float32)
    columns = tl.arange(0, D2_PADDED)
    for start in range(0, D1_PADDED, ROWS):
        row = tl.arange(0, ROWS * TOKENS)
        token, i = tokens + row % TOKENS, start + row // TOKENS
        values = _load_input(x, token, i, columns, stride, D1, D2, num_tokens, False).to(tl.float32)
        by_token = tl.reshape(tl.sum(values * values, axis=1), (ROWS, TOKENS))
        squares += tl.sum(by_token, axis=0)
    return tl.rsqrt(squares / (D1 * D2) + epsilon)


@triton.jit
def _transformed_tile(
    x, left, right, norm, inverse_norm, tokens, first_column, stride, num_tokens,
    D1: tl.constexpr, D2: tl.constexpr, D1_PADDED: tl.constexpr, D2_PADDED: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, NORM: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    """COLUMNS columns of L^T X R from `first_column`: float32 [D1_PADDED, TOKENS * COLUMNS], zero where padded."""
    column = first_column + tl.arange(0, COLUMNS)
    z = tl.zeros((D1_PADDED, TOKENS * COLUMNS), tl.float32)
    if RIGHT:
        inner = tl.arange(0, D2_PADDED)
        of_right = (inner < D2)[:, None] & (column < D2)[None, :]
        factor = tl.load(right + inner[:, None] * D2 + column[None, :], of_right, 0.0)
    else:
        inner = column
    for start in range(0, D1_PADDED, ROWS):
        row = tl.arange(0, ROWS * TOKENS)
        token, i = tokens + row % TOKENS, start + row // TOKENS
        blocks = _load_input(x, token, i, inner, stride, D1, D2, num_tokens, GATE)
        if NORM:
            of_norm = (i < D1)[:, None] & (inner < D2)[None, :]
            weight = tl.load(norm + i[:, None] * D2 + inner[None, :], of_norm, 0.0).to(tl.float32)
            by_row = tl.reshape(tl.broadcast_to(inverse_norm[None, :], (ROWS, TOKENS)), (ROWS * TOKENS,))
            blocks = (blocks.to(tl.float32) * by_row[:, None] * weight).to(blocks.dtype)
        if RIGHT:
            blocks = tl.dot(blocks, factor).to(blocks.dtype)
        blocks = tl.reshape(blocks, (ROWS, TOKENS * COLUMNS))
        if LEFT:
            out, k = tl.arange(0, D1_PADDED), start + tl.arange(0, ROWS)
            of_left = (out < D1)[:, None] & (k < D1)[None, :]
            transposed = tl.load(left + k[None, :] * D1 + out[:, None], of_left, 0.0)
            z = tl.dot(transposed, blocks, z)
        else:
            z = blocks.to(tl.float32)
    return z


@triton.jit
def transform_quantize_kernel(
    x, left, right, clips, norm, codes, scales, num_tokens, stride, epsilon,
    D1: tl.constexpr, D2: tl.constexpr, D1_PADDED: tl.constexpr, D2_PADDED: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr,
    OUTPUTS: tl.constexpr, BITS: tl.constexpr, WIDTH: tl.constexpr, SIGNED: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, NORM: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(0) * TOKENS
    inverse_norm = tl.zeros((TOKENS,), tl.float32)
    if NORM:
        inverse_norm = _inverse_norm(
            x, tokens, stride, num_tokens, epsilon, D1, D2, D1_PADDED, D2_PADDED, TOKENS, ROWS
        )  # fmt: skip

    if TILES == 1:
        z = _transformed_tile(
            x, left, right, norm, inverse_norm, tokens, 0, stride, num_tokens, D1, D2, D1_PADDED, D2_PADDED, TOKENS,
            ROWS, COLUMNS, LEFT, RIGHT, NORM, GATE,
        )  # fmt: skip
        largest = _largest(z, D1_PADDED, TOKENS, COLUMNS)
        _quantize_tile(
            z, largest, 0, tokens, clips, codes, scales, num_tokens, D1, D2, D1_PADDED, TOKENS, COLUMNS, OUTPUTS,
            BITS, WIDTH, SIGNED,
        )  # fmt: skip
    else:
        largest = tl.zeros((TOKENS,), tl.uint32)
        for tile in range(TILES):
            z = _transformed_tile(
                x, left, right, norm, inverse_norm, tokens, tile * COLUMNS, stride, num_tokens, D1, D2, D1_PADDED,
                D2_PADDED, TOKENS, ROWS, COLUMNS, LEFT, RIGHT, NORM, GATE,
            )  # fmt: skip
            largest = tl.maximum(largest, _largest(z, D1_PADDED, TOKENS, COLUMNS))
        for tile in range(TILES):
            z = _transformed_tile(
                x, left, right, norm, inverse_norm, tokens, tile * COLUMNS, stride, num_tokens, D1, D2, D1_PADDED,
                D2_PADDED, TOKENS, ROWS, COLUMNS, LEFT, RIGHT, NORM, GATE,
            )  # fmt: skip
            _quantize_tile(
                z, largest, tile * COLUMNS, tokens, clips, codes, scales, num_tokens, D1, D2, D1_PADDED, TOKENS,
                COLUMNS, OUTPUTS, BITS, WIDTH, SIGNED,
            )  # fmt: skip


@triton.jit
def _largest(z, D1_PADDED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr):
    """The entry of largest magnitude of each token: uint32 [TOKENS], its bits with the sign bit moved to the lowest.

    So the largest integer is the entry of largest magnitude, the negative one of two; a NaN or an infinity is larger
    than any number, and one reduction does for all.
    """
    bits = z.to(tl.uint32, bitcast=True)
    magnitude = tl.reshape((bits << 1) | (bits >> 31), (D1_PADDED, TOKENS, COLUMNS))
    return tl.max(tl.max(magnitude, axis=2), axis=0)


@triton.jit
def _quantize_tile(
    z, largest, first_column, tokens, clips, codes, scales, num_tokens,
    D1: tl.constexpr, D2: tl.constexpr, D1_PADDED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr, BITS: tl.constexpr, WIDTH: tl.constexpr, SIGNED: tl.constexpr,
):  # fmt: skip
    """Write the scales of each output, and the codes of a tile of columns."""
    # The scale is that of kernels/reference/scale.py.
    peak = ((largest >> 1) | (largest << 31)).to(tl.float32, bitcast=True)
    if not SIGNED:
        peak = -tl.abs(peak)
    token = tokens + tl.arange(0, TOKENS)
    top = (1 << (BITS - 1)) - 1.0
    byte_stride = D1 * D2 * WIDTH // 8
    for output in tl.static_range(OUTPUTS):
        scale = -peak * tl.div_rn(tl.load(clips + output), top)
        scale = tl.where(scale == 0, 1.0, scale)
        scale += scale * 0.0  # an infinity becomes NaN
        tl.store(scales + output * num_tokens + token, scale, token < num_tokens)
        # One division a token and a multiplication for each value. Against a division for each value, codes differ
        # where a value lies within 2^-23 of the middle of two codes.
        inverse = tl.broadcast_to(tl.div_rn(1.0, scale)[:, None], (TOKENS, COLUMNS))
        values = z * tl.reshape(inverse, (TOKENS * COLUMNS,))[None, :]
        quantized = integer_bits(tl.minimum(tl.maximum(values, -top - 1.0), top))
        # num_tokens may be the constant 1, which has no method .to
        start = codes + tl.cast(output * num_tokens, tl.int64) * byte_stride
        _store_codes(
            quantized, start, tokens, num_tokens, first_column, byte_stride, D1, D2, D1_PADDED, TOKENS, COLUMNS, WIDTH
        )


@triton.jit
def _store_codes(
    quantized, codes, tokens, num_tokens, first_column, byte_stride,
    D1: tl.constexpr, D2: tl.constexpr, D1_PADDED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Pack int32 [D1_PADDED, TOKENS * COLUMNS] and write it; 3 bits are a plane of 2 bits and a plane of 1 bit."""
    if WIDTH == 3:
        _store_plane(
            quantized, codes, tokens, num_tokens, first_column, byte_stride, D1, D2, D1_PADDED, TOKENS, COLUMNS, 2
        )
        _store_plane(
            quantized >> 2, codes + D1 * D2 // 4, tokens, num_tokens, first_column, byte_stride,
            D1, D2, D1_PADDED, TOKENS, COLUMNS, 1,
        )  # fmt: skip
    else:
        _store_plane(
            quantized, codes, tokens, num_tokens, first_column, byte_stride, D1, D2, D1_PADDED, TOKENS, COLUMNS, WIDTH
        )


@triton.jit
def _store_plane(
    values, codes, tokens, num_tokens, first_column, byte_stride,
    D1: tl.constexpr, D2: tl.constexpr, D1_PADDED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    packed = pack_plane(values, D1_PADDED, TOKENS * COLUMNS, WIDTH)
    place = tl.arange(0, TOKENS * COLUMNS * WIDTH // 8)
    token = tokens + place // (COLUMNS * WIDTH // 8)
    byte = first_column * WIDTH // 8 + place % (COLUMNS * WIDTH // 8)
    row = tl.arange(0, D1_PADDED)
    address = (token.to(tl.int64) * byte_stride + byte)[None, :] + (row * (D2 * WIDTH // 8))[:, None]
    inside = ((token < num_tokens) & (byte < D2 * WIDTH // 8))[None, :] & (row < D1)[:, None]
    tl.store(codes + address, packed, inside)


def transform_quantize(
    x: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    clips: Tensor,
    *,
    bits: int,
    width: int | None = None,
    signed: bool = True,
    norm: Tensor | None = None,
    epsilon: float = 1e-5,
    gate: bool = False,
) -> tuple[Tensor, Tensor]:
    """`kernels.reference.kronecker.transform_quantize` for float16 x, factors and norm, and float32 clips.

    X R is rounded to float16, so values beyond 65504 there make the row NaN, as infinite ones do. Raises ValueError for
    tensors of another type or shape, or that are not contiguous; for bits or a width that the kernels do not know; for
    rows of codes that do not fill whole bytes; for no clip or more than three.
    """
    target = target_of(x)
    if x.dim() != 2:
        raise ValueError(f"x is {list(x.shape)}; the kernel needs [tokens, d]")
    num_tokens, d = x.shape[0], x.shape[1] // (2 if gate else 1)
    d1, d2 = factor_sizes(d, left, right)
    width = bits if width is None else width
    check_bits(bits)
    packed_length(d2, width)
    if width < bits:
        raise ValueError(f"codes of {bits} bits do not fit in a width of {width} bits")
    if not 1 <= len(clips) <= 3:
        raise ValueError(f"a launch has one to three outputs, not {len(clips)}; give a clip for each")
    check_tensor("x", x, torch.float16, (None, 2 * d if gate else d), x)
    check_tensor("clips", clips, torch.float32, (None,), x)
    for name, factor, size in (("left", left, (d1, d1)), ("right", right, (d2, d2)), ("norm", norm, (d,))):
        if factor is not None:
            check_tensor(name, factor, torch.float16, size, x)

    codes = torch.empty(len(clips), num_tokens, packed_length(d, width), dtype=torch.uint8, device=x.device)
    scales = torch.empty(len(clips), num_tokens, dtype=torch.float32, device=x.device)
    tiles = kronecker_tiles(target, d1, d2, num_tokens, has_left=left is not None)
    arguments = {
        "x": x, "left": left, "right": right, "clips": clips, "norm": norm, "codes": codes, "scales": scales,
        "num_tokens": num_tokens, "stride": x.shape[1], "epsilon": epsilon, "D1": d1, "D2": d2,
        "D1_PADDED": tiles.d1_padded, "D2_PADDED": tiles.d2_padded, "TOKENS": tiles.tokens, "ROWS": tiles.rows,
        "COLUMNS": tiles.columns, "TILES": tiles.num_tiles, "OUTPUTS": len(clips), "BITS": bits,
        "WIDTH": width, "SIGNED": signed, "LEFT": left is not None, "RIGHT": right is not None,
        "NORM": norm is not None, "GATE": gate,
    }  # fmt: skip
    grid = (triton.cdiv(num_tokens, tiles.tokens),)
    launch(transform_quantize_kernel, grid, arguments, num_warps=tiles.num_warps, num_stages=1)
    return codes, scales


def factor_sizes(d: int, left: Tensor | None, right: Tensor | None) -> tuple[int, int]:
    """d1 and d2 with d1 d2 = d. Without factors, rows of 128 if they fit, since any split then does the same.

    ValueError for factors that do not multiply to d.
    """
    if left is None and right is None:
        d2 = next(size for size in (128, 64, 32, 16, 8, 4, 2, 1) if d % size == 0)
        return d // d2, d2
    d1 = len(left) if left is not None else d // len(right)
    d2 = len(right) if right is not None else d // d1
    if d1 * d2 != d:
        raise ValueError(f"factors of {d1} and {d2} make {d1 * d2} channels, but x has {d}")
    return d1, d2
