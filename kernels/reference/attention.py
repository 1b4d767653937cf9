"""Attention of one new token for each sequence over the packed cache."""

import math

import torch
from torch import Tensor

from kernels.reference.cache import Cache, dequantize


def decode_attention(
    queries: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    positions: Tensor,
    *,
    key_bits: int,
    value_bits: int,
    query_factors: Tensor | None = None,
) -> Tensor:
    """softmax(q K^T / sqrt(head_dim)) V over each sequence up to its newest token: [batch, heads, head_dim].

    queries: [batch, heads, head_dim]; each key head serves heads / kv_heads of them. positions: int32 [batch], the
    place of each newest token; one beyond the capacity reads the whole cache, a negative one, an empty sequence, gives
    zeros. query_factors [kv_heads, head_dim, head_dim]: A^-T of a key transform that the queries have not been through
    yet. A NaN in the part of a cache that is read makes the output NaN.
    """
    batch, num_heads, head_dim = queries.shape
    kv_heads, capacity = key_cache.codes.shape[1:3]
    wide = queries.view(batch, kv_heads, num_heads // kv_heads, head_dim).float()
    if query_factors is not None:
        wide = (wide @ query_factors.float()).to(queries.dtype).float()
    scores = wide @ dequantize(key_cache, key_bits).mT / math.sqrt(head_dim)  # [batch, kv_heads, group, capacity]
    mask = torch.arange(capacity, device=queries.device) <= positions.unsqueeze(-1)  # [batch, capacity]
    shares = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    # A NaN beyond the newest token must not reach the output.
    values = torch.where(mask[:, None, :, None], dequantize(value_cache, value_bits), 0.0)
    output = torch.where((positions >= 0)[:, None, None, None], shares @ values, 0.0)
    return output.view(queries.shape).to(queries.dtype)
