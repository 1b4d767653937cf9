"""Rotary embedding, key transform, asymmetric quantization, packing and appending to the cache, in one launch.

A program takes some tokens of one head. Its number says whether that is a query, a key or a value head.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.reference.cache import Cache
from kernels.reference.packing import check_bits, packed_length
from kernels.triton.codes import pack_plane, round_half_even
from kernels.triton.configurations import APPEND_TOKENS, APPEND_WARPS
from kernels.triton.launch import check_tensor, launch, target_of


@triton.jit
def _quantize_append(
    x, clip, codes, ranges, kept, head, sequence, token, place, inside, has_place, num_tokens, kv_heads, capacity,
    ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, BITS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Quantize float32 [ROWS, HEAD_DIM] of one head; write codes and ranges, and with KEEP the values they stand for."""
    top = (1 << BITS) - 1.0
    low = tl.minimum(tl.min(x, axis=1), 0.0) * tl.load(clip + 2 * head)
    high = tl.maximum(tl.max(x, axis=1), 0.0) * tl.load(clip + 2 * head + 1)
    # Codes are taken with the scale that is stored, rounded to float16.
    scale = tl.div_rn(high - low, top).to(tl.float16)
    scale = tl.where(scale == 0, 1.0 / top, scale).to(tl.float16).to(tl.float32)
    zero = round_half_even(tl.div_rn(-low, scale))
    levels = round_half_even(tl.div_rn(x, tl.broadcast_to(scale[:, None], (ROWS, HEAD_DIM)))) + zero[:, None]
    levels = tl.minimum(tl.maximum(levels, 0.0), top)
    # NaN where a channel is NaN or infinite: the minimum and the maximum need not show it.
    scale += tl.sum(x * 0.0, axis=1)

    cache_row = (sequence * kv_heads + head).to(tl.int64) * capacity + place
    tl.store(ranges + 2 * cache_row, scale.to(tl.float16), has_place)
    tl.store(ranges + 2 * cache_row + 1, zero.to(tl.float16), has_place)
    start = codes + cache_row[:, None] * (HEAD_DIM * BITS // 8)
    quantized = levels.to(tl.int32)
    LOW: tl.constexpr = 2 if BITS == 3 else BITS
    byte = tl.arange(0, HEAD_DIM * LOW // 8)[None, :]
    tl.store(start + byte, pack_plane(quantized, ROWS, HEAD_DIM, LOW), has_place[:, None])
    if BITS == 3:
        byte = tl.arange(0, HEAD_DIM // 8)[None, :]
        tl.store(start + HEAD_DIM // 4 + byte, pack_plane(quantized >> 2, ROWS, HEAD_DIM, 1), has_place[:, None])
    if KEEP:
        row = (sequence * kv_heads + head).to(tl.int64) * num_tokens + token
        value = ((levels - zero[:, None]) * scale[:, None]).to(tl.float16)
        tl.store(kept + row[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :], value, inside[:, None])


@triton.jit
def append_kernel(
    qkv, positions, cosines, sines, key_factors, query_factors, key_clip, value_clip, queries, key_codes, key_ranges,
    value_codes, value_ranges, keys, values, num_rows, num_tokens, capacity, num_heads, kv_heads,
    ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr,
    ROTARY: tl.constexpr, TRANSFORM: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # (sequence, token)
    sequence, token = row // num_tokens, row % num_tokens
    inside = row < num_rows
    place = tl.load(positions + sequence, inside, 0) + token
    has_place = inside & (place >= 0) & (place < capacity)
    channel = tl.arange(0, HEAD_DIM)
    start = qkv + row.to(tl.int64)[:, None] * ((num_heads + 2 * kv_heads) * HEAD_DIM) + head * HEAD_DIM
    # A token without a place is NaN from here on, so that a full cache shows in the output; rows of no token are zeros.
    outside = tl.where(inside, float("nan"), 0.0)[:, None]
    x = tl.load(start + channel[None, :], has_place[:, None], outside)
    is_value = head >= num_heads + kv_heads
    kv_head = tl.where(head < num_heads, head // (num_heads // kv_heads), (head - num_heads) % kv_heads)
    if not is_value:
        if ROTARY:
            HALF: tl.constexpr = HEAD_DIM // 2
            angle = place[:, None] * HALF + (channel % HALF)[None, :]
            other = tl.load(start + ((channel + HALF) % HEAD_DIM)[None, :], inside[:, None], 0.0).to(tl.float32)
            other = tl.where((channel < HALF)[None, :], -other, other)
            cosine = tl.load(cosines + angle, has_place[:, None], 0.0)
            sine = tl.load(sines + angle, has_place[:, None], 0.0)
            x = (x.to(tl.float32) * cosine + other * sine).to(tl.float16)
        wide = x.to(tl.float32)
        if TRANSFORM:
            factors = query_factors
            if head >= num_heads:
                factors = key_factors
            square = kv_head * HEAD_DIM * HEAD_DIM + channel[:, None] * HEAD_DIM + channel[None, :]
            wide = tl.dot(x, tl.load(factors + square))
        if head < num_heads:
            query_row = (sequence * num_heads + head).to(tl.int64) * num_tokens + token
            address = queries + query_row[:, None] * HEAD_DIM + channel[None, :]
            tl.store(address, wide.to(tl.float16), inside[:, None])
        else:
            _quantize_append(
                wide, key_clip, key_codes, key_ranges, keys, kv_head, sequence, token, place, inside, has_place,
                num_tokens, kv_heads, capacity, ROWS, HEAD_DIM, KEY_BITS, KEEP,
            )  # fmt: skip
    else:
        _quantize_append(
            x.to(tl.float32), value_clip, value_codes, value_ranges, values, kv_head, sequence, token, place, inside,
            has_place, num_tokens, kv_heads, capacity, ROWS, HEAD_DIM, VALUE_BITS, KEEP,
        )  # fmt: skip


def append(
    qkv: Tensor,
    positions: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    *,
    key_bits: int,
    value_bits: int,
    key_clip: Tensor,
    value_clip: Tensor,
    rotary: tuple[Tensor, Tensor] | None = None,
    key_factors: Tensor | None = None,
    query_factors: Tensor | None = None,
    keep_values: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`kernels.reference.cache.append` for float16 qkv, factors and cache ranges, and a head_dim that is a power of two.

    Raises ValueError for tensors that do not fit together or are not contiguous, for
    unknown bits, for other head sizes, and for one of the two factors without the other.
    """
    target_of(qkv)
    batch, kv_heads, capacity, head_dim = check_caches(key_cache, value_cache, key_bits, value_bits, qkv)
    check_tensor("qkv", qkv, torch.float16, (batch, None, None), qkv)
    num_tokens, num_heads = qkv.shape[1], qkv.shape[2] // head_dim - 2 * kv_heads
    if qkv.shape[2] % head_dim or num_heads < kv_heads or num_heads % kv_heads:
        raise ValueError(
            f"qkv of {qkv.shape[2]} channels does not hold {kv_heads} key and value heads of {head_dim} and a multiple "
            "of as many query heads"
        )
    if (key_factors is None) != (query_factors is None):
        raise ValueError("key_factors and query_factors belong together: give both or neither")
    check_tensor("positions", positions, torch.int32, (batch,), qkv)
    for name, clip in (("key_clip", key_clip), ("value_clip", value_clip)):
        check_tensor(name, clip, torch.float32, (kv_heads, 2), qkv)
    for name, factors in (("key_factors", key_factors), ("query_factors", query_factors)):
        if factors is not None:
            check_tensor(name, factors, torch.float16, (kv_heads, head_dim, head_dim), qkv)
    for name, table in zip(("cosines", "sines"), rotary or (), strict=False):
        check_tensor(name, table, torch.float32, (None, head_dim // 2), qkv)
    if rotary is not None and min(map(len, rotary)) < capacity:
        raise ValueError(f"rotary tables of {min(map(len, rotary))} positions are shorter than the cache's {capacity}")

    queries = qkv.new_empty(batch, num_heads, num_tokens, head_dim)
    keys = values = None
    if keep_values:
        keys, values = (qkv.new_empty(batch, kv_heads, num_tokens, head_dim) for _ in range(2))
    cosines, sines = rotary or (None, None)
    arguments = {
        "qkv": qkv, "positions": positions, "cosines": cosines, "sines": sines, "key_factors": key_factors,
        "query_factors": query_factors, "key_clip": key_clip, "value_clip": value_clip, "queries": queries,
        "key_codes": key_cache.codes, "key_ranges": key_cache.ranges, "value_codes": value_cache.codes,
        "value_ranges": value_cache.ranges, "keys": keys, "values": values, "num_rows": batch * num_tokens,
        "num_tokens": num_tokens, "capacity": capacity, "num_heads": num_heads, "kv_heads": kv_heads,
        "ROWS": APPEND_TOKENS, "HEAD_DIM": head_dim, "KEY_BITS": key_bits, "VALUE_BITS": value_bits,
        "ROTARY": rotary is not None, "TRANSFORM": key_factors is not None, "KEEP": keep_values,
    }  # fmt: skip
    grid = (triton.cdiv(batch * num_tokens, APPEND_TOKENS), num_heads + 2 * kv_heads)
    num_warps = APPEND_WARPS["prefill" if keep_values else "decode"]
    launch(append_kernel, grid, arguments, num_warps=num_warps, num_stages=1)
    return queries, keys, values


def check_caches(
    key_cache: Cache, value_cache: Cache, key_bits: int, value_bits: int, like: Tensor
) -> tuple[int, int, int, int]:
    """Batch, key heads, capacity and head size of two caches; ValueError where the kernels cannot read them."""
    check_bits(key_bits)
    head_dim = key_cache.codes.shape[-1] * 8 // key_bits
    if head_dim & (head_dim - 1) or head_dim < 16:
        raise ValueError(f"heads of {head_dim} channels: the kernels need a power of two from 16 on")
    shape = tuple(key_cache.codes.shape[:3])
    for name, cache, bits in (("keys", key_cache, key_bits), ("values", value_cache, value_bits)):
        check_tensor(f"codes of {name}", cache.codes, torch.uint8, (*shape, packed_length(head_dim, bits)), like)
        check_tensor(f"ranges of {name}", cache.ranges, torch.float16, (*shape, 2), like)
    return (*shape, head_dim)
