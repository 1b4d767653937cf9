"""Attention of one new token for each sequence over the packed cache.

A program has one key head of one sequence, the query heads that it serves (padded to the 16 rows of a tensor core), and
a part of the tokens; parts are merged by a second launch, where there is more than one.

Codes are multiplied as they are, in float16, where they are exact. With key k = s (c - z), q k = s (q c - z sum(q)): one
subtraction for each token, not each channel. Values likewise, and their scales join the weights: a token's weight is
exp(score) s, whose logarithm is score + log s, so the running maximum is of that and no weight leaves the range of
float16. Channels are never put in order: those at each place of a byte are multiplied apart.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.reference.cache import Cache
from kernels.triton.cache import check_caches
from kernels.triton.configurations import ATTENTION_TOKENS, ATTENTION_WARPS, attention_splits
from kernels.triton.launch import check_tensor, launch, target_of


@triton.jit
def _codes_at(low, high, place: tl.constexpr, BITS: tl.constexpr, BYTES: tl.constexpr):
    """The codes at one place of the bytes, float16 [tokens, BYTES]; of 3 bits, `high` has the third one.

    1024 + code is a float16 whose bits are those of 1024 with the code in the lowest ones: no conversion is needed.
    """
    WIDTH: tl.constexpr = 2 if BITS == 3 else BITS
    codes = (low.to(tl.int16) >> (place * WIDTH)) & ((1 << WIDTH) - 1)
    if BITS == 3:
        odd = tl.arange(0, BYTES) % 2
        codes = codes | (((high.to(tl.int16) >> (4 * odd + place)[None, :].to(tl.int16)) & 1) << 2)
    return (codes | 0x6400).to(tl.float16, bitcast=True) - 1024.0


@triton.jit
def _load_codes(codes, token, inside, HEAD_DIM: tl.constexpr, BITS: tl.constexpr, BYTES: tl.constexpr):
    """Bytes of some tokens: of 3 bits the plane of two, and for each of its bytes that of the third bits."""
    byte = tl.arange(0, BYTES)
    start = codes + token.to(tl.int64)[:, None] * (HEAD_DIM * BITS // 8)
    low = tl.load(start + byte[None, :], inside[:, None], 0)
    high = low
    if BITS == 3:
        high = tl.load(start + HEAD_DIM // 4 + (byte // 2)[None, :], inside[:, None], 0)
    return low, high


@triton.jit
def decode_attention_kernel(
    queries, factors, key_codes, key_ranges, value_codes, value_ranges, positions, output, partial, weights, capacity,
    scale,
    HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, KV_HEADS: tl.constexpr, TOKENS: tl.constexpr,
    SPLITS: tl.constexpr, KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr, TRANSFORM: tl.constexpr,
):  # fmt: skip
    # Places of a byte of the low plane, and its bytes.
    KEY_PLACES: tl.constexpr = 8 // (2 if KEY_BITS == 3 else KEY_BITS)
    VALUE_PLACES: tl.constexpr = 8 // (2 if VALUE_BITS == 3 else VALUE_BITS)
    KEY_BYTES: tl.constexpr = HEAD_DIM // KEY_PLACES
    VALUE_BYTES: tl.constexpr = HEAD_DIM // VALUE_PLACES
    cache_head, split = tl.program_id(0), tl.program_id(1)
    head = tl.arange(0, ROWS)
    of_group = head < GROUP
    start = queries + (cache_head * GROUP + head)[:, None] * HEAD_DIM
    key_byte = tl.arange(0, KEY_BYTES) * KEY_PLACES
    query = ()
    query_sum = tl.zeros((ROWS,), tl.float32)
    if TRANSFORM:
        channel = tl.arange(0, HEAD_DIM)
        whole = tl.load(start + channel[None, :], of_group[:, None], 0.0)
        square = factors + (cache_head % KV_HEADS) * (HEAD_DIM * HEAD_DIM) + channel[:, None] * HEAD_DIM
    for place in tl.static_range(KEY_PLACES):
        if TRANSFORM:
            part = tl.dot(whole, tl.load(square + (key_byte + place)[None, :])).to(tl.float16)
        else:
            part = tl.load(start + (key_byte + place)[None, :], of_group[:, None], 0.0)
        query_sum += tl.sum(part.to(tl.float32), axis=1)
        query = query + (part,)

    # A position beyond the capacity, whose token was not written, reads the cache to its end and not what lies behind it.
    newest = tl.minimum(tl.load(positions + cache_head // KV_HEADS), capacity - 1)
    end = tl.maximum(newest, -1) + 1
    per_split = tl.cdiv(tl.cdiv(end, TOKENS), SPLITS) * TOKENS
    stop = tl.minimum((split + 1) * per_split, end)
    first_row = cache_head.to(tl.int64) * capacity
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)  # of exp(score)
    offset = tl.zeros((ROWS,), tl.float32)  # of weight * zero point
    sums = ()
    for _ in tl.static_range(VALUE_PLACES):
        sums = sums + (tl.zeros((ROWS, VALUE_BYTES), tl.float32),)
    for begin in range(split * per_split, stop, TOKENS):
        token = begin + tl.arange(0, TOKENS)
        inside = token < stop
        row = first_row + token
        low, high = _load_codes(key_codes, row, inside, HEAD_DIM, KEY_BITS, KEY_BYTES)
        products = tl.zeros((ROWS, TOKENS), tl.float32)
        for place in tl.static_range(KEY_PLACES):
            codes = _codes_at(low, high, place, KEY_BITS, KEY_BYTES)
            products = tl.dot(query[place], tl.trans(codes), products)
        key_scale = tl.load(key_ranges + 2 * row, inside, 1.0).to(tl.float32)
        key_zero = tl.load(key_ranges + 2 * row + 1, inside, 0.0).to(tl.float32)
        value_scale = tl.load(value_ranges + 2 * row, inside, 1.0).to(tl.float32)
        value_zero = tl.load(value_ranges + 2 * row + 1, inside, 0.0).to(tl.float32)

        scores = (products - key_zero[None, :] * query_sum[:, None]) * (key_scale * scale)[None, :]
        scores = tl.where(inside[None, :], scores + tl.log2(value_scale)[None, :], float("-inf"))
        next_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        shrink = tl.exp2(maximum - next_maximum)
        weight = tl.exp2(scores - next_maximum[:, None])
        total = total * shrink + tl.sum(weight / value_scale[None, :], axis=1)
        weight = weight.to(tl.float16)
        offset = offset * shrink + tl.sum(weight.to(tl.float32) * value_zero[None, :], axis=1)
        maximum = next_maximum
        low, high = _load_codes(value_codes, row, inside, HEAD_DIM, VALUE_BITS, VALUE_BYTES)
        summed = ()
        for place in tl.static_range(VALUE_PLACES):
            codes = _codes_at(low, high, place, VALUE_BITS, VALUE_BYTES)
            summed = summed + (tl.dot(weight, codes, sums[place] * shrink[:, None]),)
        sums = summed

    head = cache_head * GROUP + head
    value_byte = tl.arange(0, VALUE_BYTES) * VALUE_PLACES
    if SPLITS > 1:
        tl.store(weights + 2 * (head * SPLITS + split), maximum, of_group)
        tl.store(weights + 2 * (head * SPLITS + split) + 1, total, of_group)
    for place in tl.static_range(VALUE_PLACES):
        value = sums[place] - offset[:, None]
        channel = (value_byte + place)[None, :]
        if SPLITS > 1:
            address = partial + (head * SPLITS + split).to(tl.int64)[:, None] * HEAD_DIM + channel
            tl.store(address, value, of_group[:, None])
        else:
            value = tl.where(total[:, None] == 0, 0.0, value / total[:, None])
            tl.store(output + head[:, None] * HEAD_DIM + channel, value.to(tl.float16), of_group[:, None])


@triton.jit
def merge_kernel(output, partial, weights, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr):
    """Add up the parts of a head, brought to their common maximum."""
    head = tl.program_id(0)
    split, channel = tl.arange(0, SPLITS), tl.arange(0, HEAD_DIM)
    maximum = tl.load(weights + 2 * (head * SPLITS + split))
    total = tl.load(weights + 2 * (head * SPLITS + split) + 1)
    # Parts without a token have weight 0, also where no part has one.
    share = tl.where(maximum == float("-inf"), 0.0, tl.exp2(maximum - tl.max(maximum, axis=0)))
    address = partial + (head * SPLITS + split).to(tl.int64)[:, None] * HEAD_DIM + channel[None, :]
    value = tl.sum(tl.load(address) * share[:, None], axis=0)
    total = tl.sum(total * share, axis=0)
    value = tl.where(total == 0, 0.0, value / total)
    tl.store(output + head * HEAD_DIM + channel, value.to(tl.float16))


def decode_attention(
    queries: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    positions: Tensor,
    *,
    key_bits: int,
    value_bits: int,
    query_factors: Tensor | None = None,
    splits: int | None = None,
) -> Tensor:
    """`kernels.reference.attention.decode_attention` for float16 queries, factors and ranges.

    splits: how many programs share the tokens of a head, a power of two; chosen by the size of the GPU unless given.
    Raises ValueError for tensors that do not fit together or are not contiguous, for unknown bits, and for heads that
    are no power of two or of fewer than 16 bytes.
    """
    target = target_of(queries)
    batch, kv_heads, capacity, head_dim = check_caches(key_cache, value_cache, key_bits, value_bits, queries)
    check_tensor("queries", queries, torch.float16, (batch, None, head_dim), queries)
    check_tensor("positions", positions, torch.int32, (batch,), queries)
    if query_factors is not None:
        check_tensor("query_factors", query_factors, torch.float16, (kv_heads, head_dim, head_dim), queries)
    num_heads = queries.shape[1]
    if num_heads % kv_heads or not num_heads:
        raise ValueError(f"{num_heads} query heads cannot be shared evenly by {kv_heads} key heads")
    if head_dim * min(key_bits & ~1, value_bits & ~1) < 128:
        raise ValueError(
            f"heads of {head_dim} channels are too narrow: at {key_bits} and {value_bits} bits the kernel needs 16 bytes"
        )
    splits = attention_splits(target, batch * kv_heads, capacity) if splits is None else splits
    if splits & (splits - 1) or splits < 1:
        raise ValueError(f"the tokens of a head are shared by a power of two of programs, not by {splits}")
    output = torch.empty_like(queries)
    partial = weights = None
    if splits > 1:
        partial = queries.new_empty(batch * num_heads, splits, head_dim, dtype=torch.float32)
        weights = queries.new_empty(batch * num_heads, splits, 2, dtype=torch.float32)
    group = num_heads // kv_heads
    arguments = {
        "queries": queries, "factors": query_factors, "key_codes": key_cache.codes, "key_ranges": key_cache.ranges,
        "value_codes": value_cache.codes, "value_ranges": value_cache.ranges, "positions": positions, "output": output,
        "partial": partial, "weights": weights, "capacity": capacity, "scale": math.log2(math.e) / math.sqrt(head_dim),
        "HEAD_DIM": head_dim, "GROUP": group, "ROWS": max(triton.next_power_of_2(group), 16), "KV_HEADS": kv_heads,
        "TOKENS": ATTENTION_TOKENS, "SPLITS": splits, "KEY_BITS": key_bits, "VALUE_BITS": value_bits,
        "TRANSFORM": query_factors is not None,
    }  # fmt: skip
    launch(decode_attention_kernel, (batch * kv_heads, splits), arguments, num_warps=ATTENTION_WARPS, num_stages=2)
    if splits > 1:
        arguments = {
            "output": output, "partial": partial, "weights": weights, "HEAD_DIM": head_dim, "SPLITS": splits
        }  # fmt: skip
        launch(merge_kernel, (batch * num_heads,), arguments, num_warps=4, num_stages=1)
    return output
