"""The part that int8 and int4 linears share: checks, the order of tiles, programs that share a tile, the epilogue.

A product of few tokens has too few tiles for a large GPU, so several programs share a tile, each summing a part of the
channels: each adds its sums to an int32 workspace, and the last one to arrive applies the epilogue and leaves the
workspace zero for the next launch. Integers make that exact whatever the order.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.launch import INTERPRETED, check_tensor, launch

MAX_CHANNELS = 1 << 16
"""Input channels up to which sums of 256 times a product of 4-bit codes, or of 8-bit codes, stay in int32."""


CHECK_WORKSPACE = os.environ.get("ALTQ_CHECK_WORKSPACE", "0") != "0"
"""Look at the workspace before and after each launch that shares tiles (environment variable ALTQ_CHECK_WORKSPACE=1).

The host then waits for every such launch. Launches under capture in a CUDA graph are not looked at: there, call
`check_workspace` around the replay.
"""


class Workspace(NamedTuple):
    """Zeros that programs which share a tile add to; every launch leaves them zero.

    Launches that share a workspace must run one after another: two streams, or a graph that is replayed beside eager
    calls, would add to the same sums, and an aborted launch leaves sums that the next one adds to its own.
    """

    sums: Tensor  # int32
    arrivals: Tensor  # int32, by tile


def empty_workspace(num_tokens: int, num_rows: int, device: torch.device | str) -> Workspace:
    """A workspace for products of up to num_tokens x num_rows, on a stream where they run one after another."""
    num_tiles = triton.cdiv(num_tokens, 8) * triton.cdiv(num_rows, 64)  # of the smallest size there is
    return Workspace(*(torch.zeros(n, dtype=torch.int32, device=device) for n in (num_tokens * num_rows, num_tiles)))


def check_workspace(workspace: Workspace, moment: str) -> None:
    """RuntimeError unless all of a workspace is zero; the moment, "before a launch" for instance, is in the message."""
    counts = {name: int(tensor.count_nonzero()) for name, tensor in workspace._asdict().items()}
    if any(counts.values()):
        raise RuntimeError(
            f"the workspace of shared tiles is not zero {moment}: {counts['sums']} sums and {counts['arrivals']} "
            "arrivals are left, so products are wrong. Either two streams, or a graph and eager calls, used it at once, "
            "or a launch was aborted: give each stream a workspace of its own, and make a new one (empty_workspace)"
        )


def workspace_for(y: Tensor, num_tiles: int, splits: int, workspace: Workspace | None) -> tuple[Tensor | None, ...]:
    """The tensors of a workspace for y, new ones unless given; None where no tile is shared.

    ValueError for a workspace that is too small.
    """
    if splits == 1:
        return None, None
    if workspace is None:
        return empty_workspace(*y.shape, y.device)
    if len(workspace.sums) < y.numel() or len(workspace.arrivals) < num_tiles:
        raise ValueError(
            f"a workspace of {len(workspace.sums)} sums is too small for {list(y.shape)}; make it with "
            "empty_workspace for the largest product"
        )
    return workspace


class LinearShape(NamedTuple):
    """The sizes of a linear layer."""

    num_tokens: int
    num_rows: int
    num_pairs: int  # of input channels
    rows: tuple[int, ...]  # of the weight, by output of the transform


def check_linear(
    codes: Tensor,
    scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bits: int,
    weight_bits: int,
    bias: Tensor | None,
    residual: Tensor | None,
    rows: Sequence[int] | None,
    dtype: torch.dtype,
) -> LinearShape:
    """The sizes of a linear layer; ValueError for tensors that do not fit together, or that the kernels cannot read."""
    for name, width in (("activations", bits), ("weights", weight_bits)):
        if width not in (4, 8):
            raise ValueError(
                f"{name} of {width} bits cannot be multiplied: codes of up to 4 bits are kept in 4, others in 8"
            )
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"the linear writes float16 or float32, not {dtype}")
    check_tensor("codes", codes, torch.uint8, (None, None, None), codes)
    num_outputs, num_tokens, num_bytes = codes.shape
    channels, num_rows = num_bytes * 8 // bits, len(weight)
    if channels % 2 or channels > MAX_CHANNELS:
        raise ValueError(f"{channels} input channels: the kernel needs an even number, at most {MAX_CHANNELS}")
    rows = (num_rows,) if rows is None else tuple(rows)
    if len(rows) != num_outputs or sum(rows) != num_rows:
        raise ValueError(f"{num_outputs} inputs for rows {list(rows)} of a weight of {num_rows} rows")
    if num_outputs > 1 and any(n % 64 for n in rows):
        raise ValueError(f"rows {list(rows)} of several inputs must be multiples of 64, since a tile reads one of them")
    check_tensor("scales", scales, torch.float32, (num_outputs, num_tokens), codes)
    check_tensor("weight", weight, torch.uint8, (num_rows, channels * weight_bits // 8), codes)
    check_tensor("weight_scales", weight_scales, torch.float32, (num_rows,), codes)
    if bias is not None:
        check_tensor("bias", bias, dtype, (num_rows,), codes)
    if residual is not None:
        check_tensor("residual", residual, dtype, (num_tokens, num_rows), codes)
    return LinearShape(num_tokens, num_rows, channels // 2, rows)


@triton.jit
def tile_of(program, token_tiles, row_tiles):
    """The token tile and the row tile of a program.

    Programs go down groups of 8 token tiles, so that the operands of a group stay in the L2 cache.
    """
    group = program // (8 * row_tiles)
    group_size = tl.minimum(token_tiles - 8 * group, 8)
    in_group = program % (8 * row_tiles)
    return 8 * group + in_group % group_size, in_group // group_size


@triton.jit
def input_of(first_row, first_end, second_end, OUTPUTS: tl.constexpr):
    """Index of the transform's output that the rows from `first_row` read."""
    output = 0
    if OUTPUTS > 1:
        output = (first_row >= first_end).to(tl.int32) + (first_row >= second_end).to(tl.int32)
    return output


@triton.jit
def add_sums(sums, total, token, row, num_tokens, num_rows):
    """Add a program's part to the sums; `token` and `row` broadcast to the shape of `total`."""
    inside = (token < num_tokens) & (row < num_rows)
    tl.atomic_add(sums + token * num_rows + row, total, inside, sem="relaxed")


@triton.jit
def is_last(arrivals, tile, SPLITS: tl.constexpr):
    """Whether all other programs of the tile have added their part; called by each after its own."""
    tl.debug_barrier()  # all threads have added before one of them says so
    return tl.atomic_add(arrivals + tile, 1, sem="acq_rel") == SPLITS - 1


@triton.jit
def take_sums(sums, token, row, num_tokens, num_rows):
    """The sums of all programs; zeros take their place in the workspace."""
    inside = (token < num_tokens) & (row < num_rows)
    # Atomics work in the L2 cache: an older value in L1 must not be read.
    total = tl.load(sums + token * num_rows + row, inside, 0, cache_modifier=".cg")
    tl.store(sums + token * num_rows + row, 0, inside)
    return total


@triton.jit
def finish(
    total, token, row, output, scales, weight_scales, bias, residual, y, num_tokens, num_rows,
    FACTOR: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Write FACTOR total (scale of the token) (scale of the row) + bias + residual, in float32 until it is written."""
    inside = (token < num_tokens) & (row < num_rows)
    token_scale = tl.load(scales + output * num_tokens + token, token < num_tokens, 0.0)
    row_scale = tl.load(weight_scales + row, row < num_rows, 0.0)
    value = total.to(tl.float32) * (FACTOR * token_scale) * row_scale
    if BIAS:
        value += tl.load(bias + row, row < num_rows, 0.0).to(tl.float32)
    place = token.to(tl.int64) * num_rows + row
    if RESIDUAL:
        value += tl.load(residual + place, inside, 0.0).to(tl.float32)
    tl.store(y + place, value.to(y.dtype.element_ty), inside)


def launch_product(
    kernel: Any,
    operands: dict[str, Tensor],
    shape: LinearShape,
    tiles: Any,
    *,
    bias: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    workspace: Workspace | None,
    num_stages: int,
    **constants: int,
) -> Tensor:
    """The output of a linear kernel, [tokens, rows]; `constants` are those that only this kernel has.

    operands: codes, scales, weight and weight_scales. tiles: of `kernels.triton.configurations`.
    """
    num_tiles = triton.cdiv(shape.num_tokens, tiles.tokens) * triton.cdiv(shape.num_rows, tiles.rows)
    y = torch.empty(shape.num_tokens, shape.num_rows, dtype=dtype, device=operands["scales"].device)
    sums, arrivals = workspace_for(y, num_tiles, tiles.splits, workspace)
    arguments = {
        **operands, "bias": bias, "residual": residual, "y": y, "sums": sums, "arrivals": arrivals,
        "num_tokens": shape.num_tokens, "num_rows": shape.num_rows, "num_pairs": shape.num_pairs,
        "first_end": shape.rows[0], "second_end": sum(shape.rows[:2]), **constants, "SPLITS": tiles.splits,
        "OUTPUTS": len(shape.rows), "BIAS": bias is not None, "RESIDUAL": residual is not None,
        "ASSEMBLY": not INTERPRETED,
    }  # fmt: skip
    checks = CHECK_WORKSPACE and sums is not None and not sums.is_meta
    checks = checks and not (sums.is_cuda and torch.cuda.is_current_stream_capturing())
    if checks:
        check_workspace(Workspace(sums, arrivals), "before a launch")
    launch(kernel, (num_tiles, tiles.splits), arguments, num_warps=tiles.num_warps, num_stages=num_stages)
    if checks:
        check_workspace(Workspace(sums, arrivals), "after a launch")
    return y
