"""The packed key/value cache: rotary embedding, key transform, asymmetric quantization, packing, appending."""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.reference.packing import pack, packed_length, unpack


class Cache(NamedTuple):
    """Keys or values of a layer: unsigned codes, and scale and zero point for each token and head."""

    codes: Tensor  # uint8 [batch, kv_heads, capacity, head_dim * bits / 8]
    ranges: Tensor  # [batch, kv_heads, capacity, 2]: scale, zero point


def empty_cache(
    batch: int,
    kv_heads: int,
    capacity: int,
    head_dim: int,
    bits: int,
    *,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
) -> Cache:
    """A cache of zeros; `dtype` is that of scales and zero points: float16 takes 4 bytes for each token and head."""
    shape = batch, kv_heads, capacity
    codes = torch.zeros(*shape, packed_length(head_dim, bits), dtype=torch.uint8, device=device)
    return Cache(codes, torch.zeros(*shape, 2, dtype=dtype, device=device))


def quantize_range(x: Tensor, clip: Tensor, bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unsigned codes uint8 [..., d] and ranges [..., 2] of x [..., d]; clip [..., 2] is of the minimum and the maximum.

    The scale is rounded to `dtype` before codes are taken with it. A row that is NaN or infinite anywhere has a NaN
    scale and codes 0.
    """
    x, top = x.float(), (1 << bits) - 1
    low = x.amin(-1, keepdim=True).clamp(max=0) * clip[..., :1].float()
    high = x.amax(-1, keepdim=True).clamp(min=0) * clip[..., 1:].float()
    scale = ((high - low) / top).to(dtype).float()
    scale = torch.where(scale == 0, torch.tensor(1 / top, dtype=dtype).float(), scale)
    zero = (-low / scale).round().to(dtype).float()
    codes = ((x / scale).round() + zero).clamp(0, top)
    finite = x.isfinite().all(-1, keepdim=True)
    ranges = torch.cat((torch.where(finite, scale, torch.nan), torch.where(finite, zero, 0.0)), dim=-1)
    return torch.where(finite, codes, 0.0).to(torch.uint8), ranges.to(dtype)


def dequantize(cache: Cache, bits: int) -> Tensor:
    """The values of a cache, float32 [batch, kv_heads, capacity, head_dim]."""
    scale, zero = cache.ranges.float().split(1, dim=-1)
    return (unpack(cache.codes, bits, signed=False).float() - zero) * scale


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding in float32, rounded to x's type: x [..., d], cosines and sines [..., d / 2].

    The channels of a pair lie half a head apart, as in LLaMA.
    """
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1).to(x.dtype)


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
    """Rotate queries and keys, transform both, quantize keys and values into the caches (in place).

    qkv: [batch, tokens, (heads + 2 kv_heads) * head_dim], queries, keys, values side by side. positions: int32 [batch],
    the place of each sequence's first token. A token whose place is not within the capacity is not written, and its
    query (and key and value) is NaN: where positions grow without the host looking, a full cache shows in the output
    and overwrites nothing. key_clip, value_clip: float32 [kv_heads, 2], of the minimum and the maximum. rotary: cosines
    and sines by position, float32 [positions, head_dim / 2]. key_factors [kv_heads, head_dim, head_dim]: keys become k
    A; query_factors: their inverse transposes, queries become q A^-T.

    Returns the queries [batch, heads, tokens, head_dim], and with `keep_values` the keys and values that the caches now
    stand for, [batch, kv_heads, tokens, head_dim] each, for the attention of a prefill (None otherwise).
    """
    batch, tokens, _ = qkv.shape
    kv_heads, capacity = key_cache.codes.shape[1:3]
    head_dim = key_cache.codes.shape[-1] * 8 // key_bits
    # [batch, heads + 2 kv_heads, tokens, head_dim]
    by_head = qkv.view(batch, tokens, qkv.shape[-1] // head_dim, head_dim).transpose(1, 2)
    slots = positions.long().unsqueeze(-1) + torch.arange(tokens, device=qkv.device)  # [batch, tokens]
    in_range = (slots >= 0) & (slots < capacity)
    by_head = torch.where(in_range[:, None, :, None], by_head, torch.nan)
    num_heads = by_head.shape[1] - 2 * kv_heads
    queries, keys, values = by_head.split((num_heads, kv_heads, kv_heads), dim=1)
    if rotary is not None:
        cosines, sines = (table[slots.clamp(0, capacity - 1)].unsqueeze(1) for table in rotary)
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
    if key_factors is not None:
        queries = (queries.float() @ query_factors.float().repeat_interleave(num_heads // kv_heads, 0)).to(qkv.dtype)
        keys = keys.float() @ key_factors.float()
    values_read = []
    for x, cache, bits, clip in (
        (keys, key_cache, key_bits, key_clip), (values, value_cache, value_bits, value_clip)
    ):  # fmt: skip
        codes, ranges = quantize_range(x, clip.unsqueeze(1), bits, cache.ranges.dtype)
        entry = Cache(pack(codes, bits), ranges)
        for sequence, (rows, inside) in enumerate(zip(slots, in_range, strict=True)):
            cache.codes[sequence, :, rows[inside]] = entry.codes[sequence, :, inside]
            cache.ranges[sequence, :, rows[inside]] = entry.ranges[sequence, :, inside]
        values_read.append(dequantize(entry, bits).to(qkv.dtype) if keep_values else None)
    return queries.contiguous(), *values_read
