"""The quantized linear layer on int4 tensor cores: sm_80, sm_86 and sm_89, at twice the rate of int8.

Triton has no int4 dot product, so the instruction is written out: mma.m16n8k64, which a warp executes together, each
lane giving its fragment of the operands (PTX ISA, "Matrix Fragments for mma.m16n8k64"). Every tensor here has one
element for each thread of the program, so that element w * 32 + l is lane l of warp w in any layout that Triton can
choose (tests/kernels/measure/test_compilation.py looks at it), and a fragment is a few such tensors.

With g = lane / 4 and t = lane % 4, a lane holds rows g and g + 8 of the left operand, 16 rows by 64 channels, column g of
the right one, 64 channels by 8, and of the sums rows g and g + 8, columns 2 t and 2 t + 1. Which 16 of the 64 channels
a lane holds is free as long as both operands agree: taking 8 neighbouring bytes, lanes load from packed codes as they
lie in memory, and nothing is unpacked or put in order. Weight rows are on the left, tokens on the right.

Hopper and Blackwell only emulate this instruction: `kernels.triton.linear` is the path there.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.configurations import int4_tiles
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

INT4_TARGETS = (80, 89)


@triton.jit
def _multiply_add(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3, WARPS: tl.constexpr, ASSEMBLY: tl.constexpr):
    """c + a b of one 16 x 8 tile a warp, over 64 channels: int32 [32 * WARPS] each, four for the sums."""
    if ASSEMBLY:
        c0, c1, c2, c3 = tl.inline_asm_elementwise(
            "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 "
            "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
            "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r,r",
            [a0, a1, a2, a3, b0, b1, c0, c1, c2, c3],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
    else:
        # The same spelled out, from the places of rows, columns and channels in the fragments.
        shifts = 28 - 4 * tl.arange(0, 8)
        left = tl.join(tl.join(a0, a2), tl.join(a1, a3))  # [lane, half of the channels, half of the rows]
        left = tl.reshape((left[:, :, :, None] << shifts) >> 28, (WARPS, 8, 4, 2, 2, 8))
        left = tl.reshape(tl.permute(left, (0, 4, 1, 2, 3, 5)), (WARPS, 16, 1, 64))
        right = tl.reshape((tl.join(b0, b1)[:, :, None] << shifts) >> 28, (WARPS, 1, 8, 64))
        product = tl.reshape(tl.sum(left * right, axis=3), (WARPS, 2, 8, 4, 2))
        sums = tl.reshape(tl.permute(product, (0, 2, 3, 4, 1)), (WARPS * 32, 2, 2))  # [lane, column, half of the rows]
        upper, lower = tl.split(sums)
        upper0, upper1 = tl.split(upper)
        lower0, lower1 = tl.split(lower)
        c0, c1, c2, c3 = c0 + upper0, c1 + upper1, c2 + lower0, c3 + lower1
    return c0, c1, c2, c3


@triton.jit
def _load_fragments(matrix, row, num_rows, pair, end, num_pairs, BLOCKS: tl.constexpr, STEPS: tl.constexpr):
    """Codes of BLOCKS times 8 rows from `row`, STEPS times 64 channels from `pair`: two int32 tensors for 16 codes."""
    place = matrix + row.to(tl.int64) * num_pairs + pair
    fragments = ()
    for step in tl.static_range(STEPS):
        for block in tl.static_range(BLOCKS):
            inside = (row + 8 * block < num_rows) & (pair + 32 * step < end)
            address = (place + 8 * block * num_pairs + 32 * step).to(tl.pointer_type(tl.int64))
            codes = tl.load(address, inside, 0)
            fragments = fragments + (codes.to(tl.int32), (codes >> 32).to(tl.int32))
    return fragments


@triton.jit
def linear_int4_kernel(
    codes, scales, weight, weight_scales, bias, residual, y, sums, arrivals, num_tokens, num_rows, num_pairs,
    first_end, second_end,
    ROW_BLOCKS: tl.constexpr, TOKEN_BLOCKS: tl.constexpr, ROW_WARPS: tl.constexpr, TOKEN_WARPS: tl.constexpr,
    STEPS: tl.constexpr, SPLITS: tl.constexpr, OUTPUTS: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):  # fmt: skip
    WARPS: tl.constexpr = ROW_WARPS * TOKEN_WARPS
    TOKENS: tl.constexpr = TOKEN_WARPS * TOKEN_BLOCKS * 8
    ROWS: tl.constexpr = ROW_WARPS * ROW_BLOCKS * 16
    tile, split = tl.program_id(0), tl.program_id(1)
    token_tile, row_tile = tile_of(tile, tl.cdiv(num_tokens, TOKENS), tl.cdiv(num_rows, ROWS))
    output = input_of(row_tile * ROWS, first_end, second_end, OUTPUTS)
    thread = tl.arange(0, WARPS * 32)
    warp, g, t = thread // 32, thread % 32 // 4, thread % 4
    w_row = row_tile * ROWS + warp // TOKEN_WARPS * (ROW_BLOCKS * 16) + g
    x_row = token_tile * TOKENS + warp % TOKEN_WARPS * (TOKEN_BLOCKS * 8) + g
    inputs = codes + output.to(tl.int64) * num_tokens * num_pairs

    STEP: tl.constexpr = 32 * STEPS
    per_split = tl.cdiv(tl.cdiv(num_pairs, STEP), SPLITS) * STEP
    end = tl.minimum((split + 1) * per_split, num_pairs)
    pair = split * per_split + 8 * t
    total = ()
    for _ in tl.static_range(ROW_BLOCKS * TOKEN_BLOCKS * 4):
        total = total + (tl.zeros((WARPS * 32,), tl.int32),)
    w = _load_fragments(weight, w_row, num_rows, pair, end, num_pairs, 2 * ROW_BLOCKS, STEPS)
    x = _load_fragments(inputs, x_row, num_tokens, pair, end, num_pairs, TOKEN_BLOCKS, STEPS)
    for _ in range(split * per_split, end, STEP):
        # The next fragments are under way while these are multiplied.
        pair += STEP
        next_w = _load_fragments(weight, w_row, num_rows, pair, end, num_pairs, 2 * ROW_BLOCKS, STEPS)
        next_x = _load_fragments(inputs, x_row, num_tokens, pair, end, num_pairs, TOKEN_BLOCKS, STEPS)
        for step in tl.static_range(STEPS):
            summed = ()
            for i in tl.static_range(ROW_BLOCKS):
                for j in tl.static_range(TOKEN_BLOCKS):
                    summed = summed + _multiply_add(
                        w[4 * (step * ROW_BLOCKS + i)], w[4 * (step * ROW_BLOCKS + i) + 2],
                        w[4 * (step * ROW_BLOCKS + i) + 1], w[4 * (step * ROW_BLOCKS + i) + 3],
                        x[2 * (step * TOKEN_BLOCKS + j)], x[2 * (step * TOKEN_BLOCKS + j) + 1],
                        total[4 * (i * TOKEN_BLOCKS + j)], total[4 * (i * TOKEN_BLOCKS + j) + 1],
                        total[4 * (i * TOKEN_BLOCKS + j) + 2], total[4 * (i * TOKEN_BLOCKS + j) + 3],
                        WARPS, ASSEMBLY,
                    )  # fmt: skip
            total = summed
        w, x = next_w, next_x

    tile_sums = _as_tile(total, ROW_BLOCKS, TOKEN_BLOCKS, ROW_WARPS, TOKEN_WARPS)
    token = (token_tile * TOKENS + tl.arange(0, TOKENS))[:, None]
    row = (row_tile * ROWS + tl.arange(0, ROWS))[None, :]
    last = True
    if SPLITS > 1:
        add_sums(sums, tile_sums, token, row, num_tokens, num_rows)
        last = is_last(arrivals, tile, SPLITS)
    if last:
        if SPLITS > 1:
            tile_sums = take_sums(sums, token, row, num_tokens, num_rows)
            tl.store(arrivals + tile, 0)
        finish(
            tile_sums, token, row, output, scales, weight_scales, bias, residual, y, num_tokens, num_rows,
            1.0, BIAS, RESIDUAL,
        )  # fmt: skip


@triton.jit
def _as_tile(
    total, ROW_BLOCKS: tl.constexpr, TOKEN_BLOCKS: tl.constexpr, ROW_WARPS: tl.constexpr, TOKEN_WARPS: tl.constexpr
):
    """The sums of all lanes as one tensor: int32 [tokens, rows]."""
    COUNT: tl.constexpr = ROW_BLOCKS * TOKEN_BLOCKS * 4
    # Joined from the first and the second half, so that the new axes, outermost first, count as `total` does.
    for level in tl.static_range(1, 16):
        if COUNT >> level > 0:
            joined = ()
            for place in tl.static_range(COUNT >> level):
                joined = joined + (tl.join(total[place], total[place + (COUNT >> level)]),)
            total = joined
    # [row warp, token warp, g, t, row block, token block, 8 rows down, column 2 t or the next]
    lanes = tl.reshape(total[0], (ROW_WARPS, TOKEN_WARPS, 8, 4, ROW_BLOCKS, TOKEN_BLOCKS, 2, 2))
    by_token = tl.permute(lanes, (1, 5, 3, 7, 0, 4, 6, 2))
    return tl.reshape(by_token, (TOKEN_WARPS * TOKEN_BLOCKS * 8, ROW_WARPS * ROW_BLOCKS * 16))


def linear_int4(
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
    """`kernels.triton.linear.linear` for activations and weights of 4 bits and a multiple of 16 input channels.

    Raises RuntimeError on a target without int4 tensor cores, ValueError as `linear` does and for other bits or channels.
    """
    target = target_of(codes)
    if target not in INT4_TARGETS:
        raise RuntimeError(
            f"compute capability {target / 10} has no int4 tensor cores (it would emulate them): use kernels.triton.linear"
        )
    shape = check_linear(codes, scales, weight, weight_scales, bits, weight_bits, bias, residual, rows, dtype)
    if (bits, weight_bits) != (4, 4):
        raise ValueError(f"int4 tensor cores multiply 4 bits by 4 bits, not {bits} by {weight_bits}")
    if shape.num_pairs % 8:
        raise ValueError(f"{2 * shape.num_pairs} input channels: the int4 path needs a multiple of 16")
    tiles = int4_tiles(target, shape.num_tokens, shape.num_rows, shape.num_pairs, shape.rows)
    return launch_product(
        linear_int4_kernel,
        {"codes": codes, "scales": scales, "weight": weight, "weight_scales": weight_scales},
        shape, tiles, bias=bias, residual=residual, dtype=dtype, workspace=workspace, num_stages=1,
        ROW_BLOCKS=tiles.row_blocks, TOKEN_BLOCKS=tiles.token_blocks, ROW_WARPS=tiles.row_warps,
        TOKEN_WARPS=tiles.token_warps, STEPS=tiles.steps,
    )  # fmt: skip
