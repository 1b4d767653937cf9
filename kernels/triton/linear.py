"""The quantized linear layer on int8 tensor cores: unpacking, exact product, scales, bias and residual in one launch.

int8 is what all of sm_80 to sm_100 multiply; `kernels.triton.linear_int4` has the int4 path of those that have one.

Weight rows are the left operand and tokens the right one, so that a decode step's few tokens still fill the 64 rows of
a Hopper or Blackwell product. Bytes of two codes are never put in order: a dot product may be summed in any order, so
codes at even places are multiplied by codes at even places, odd by odd. Of 4-bit codes, 16 times the code is
multiplied, which is cheaper to unpack (`kernels.triton.codes.halves`), and the epilogue divides by it.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.codes import halves
from kernels.triton.configurations import linear_tiles
from kernels.triton.launch import target_of
from kernels.triton.product import (
    Workspace,
    add_sums,
    check_linear,
    finish,
    input_of,
    is_last,
    launch_product,
    take_sums,
    tile_of,
)


@triton.jit
def linear_kernel(
    codes, scales, weight, weight_scales, bias, residual, y, sums, arrivals, num_tokens, num_rows, num_pairs,
    first_end, second_end,
    BITS: tl.constexpr, WEIGHT_BITS: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr,
    SPLITS: tl.constexpr, OUTPUTS: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    token_tile, row_tile = tile_of(tile, tl.cdiv(num_tokens, TOKENS), tl.cdiv(num_rows, ROWS))
    output = input_of(row_tile * ROWS, first_end, second_end, OUTPUTS)
    token = (token_tile * TOKENS + tl.arange(0, TOKENS))[:, None]
    row = row_tile * ROWS + tl.arange(0, ROWS)

    pair = tl.arange(0, PAIRS)[None, :]
    of_tokens = codes + (output * num_tokens + token).to(tl.int64) * num_pairs + pair
    of_rows = weight + row.to(tl.int64)[:, None] * num_pairs + pair
    per_split = tl.cdiv(tl.cdiv(num_pairs, PAIRS), SPLITS) * PAIRS
    total = tl.zeros((ROWS, TOKENS), tl.int32)
    for start in range(split * per_split, tl.minimum((split + 1) * per_split, num_pairs), PAIRS):
        inside = pair < num_pairs - start
        x_even, x_odd = halves(tl.load(of_tokens + start, (token < num_tokens) & inside, 0), BITS, ASSEMBLY)
        w = tl.load(of_rows + start, (row < num_rows)[:, None] & inside, 0)
        w_even, w_odd = halves(w, WEIGHT_BITS, ASSEMBLY)
        total = tl.dot(w_even, tl.trans(x_even), total, out_dtype=tl.int32)
        total = tl.dot(w_odd, tl.trans(x_odd), total, out_dtype=tl.int32)

    total = tl.trans(total)
    row = row[None, :]
    last = True
    if SPLITS > 1:
        add_sums(sums, total, token, row, num_tokens, num_rows)
        last = is_last(arrivals, tile, SPLITS)
    if last:
        if SPLITS > 1:
            total = take_sums(sums, token, row, num_tokens, num_rows)
            tl.store(arrivals + tile, 0)
        FACTOR: tl.constexpr = (1 / 16 if BITS == 4 else 1) * (1 / 16 if WEIGHT_BITS == 4 else 1)
        finish(
            total, token, row, output, scales, weight_scales, bias, residual, y, num_tokens, num_rows,
            FACTOR, BIAS, RESIDUAL,
        )  # fmt: skip


def linear(
    codes: Tensor,
    scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    *,
    bits: int = 4,
    weight_bits: int = 4,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    rows: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float16,
    workspace: Workspace | None = None,
) -> Tensor:
    """`kernels.reference.linear.linear`; bias and residual are of `dtype`, float16 or float32.

    workspace: zeros to share tiles in, at least as large as `empty_workspace` makes them; without one, a launch that
    shares tiles makes its own. Raises ValueError for tensors that do not fit together or are not contiguous, for bits
    other than 4 and 8, for more than MAX_CHANNELS input channels, and with several outputs for rows that are no
    multiples of 64.
    """
    target = target_of(codes)
    shape = check_linear(codes, scales, weight, weight_scales, bits, weight_bits, bias, residual, rows, dtype)
    tiles = linear_tiles(target, shape.num_tokens, shape.num_rows, shape.num_pairs, shape.rows)
    return launch_product(
        linear_kernel,
        {
            "codes": _pairs(codes, bits), "scales": scales,
            "weight": _pairs(weight, weight_bits), "weight_scales": weight_scales,
        },
        shape, tiles, bias=bias, residual=residual, dtype=dtype, workspace=workspace, num_stages=tiles.num_stages,
        BITS=bits, WEIGHT_BITS=weight_bits, TOKENS=tiles.tokens, ROWS=tiles.rows, PAIRS=tiles.pairs,
    )  # fmt: skip


def _pairs(packed: Tensor, bits: int) -> Tensor:
    """Two codes an element: int8 of two nibbles, or int16 of two bytes."""
    return packed.view(torch.int8 if bits == 4 else torch.int16)
