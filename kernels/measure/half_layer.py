"""The float16 decoder layers that the quantized one is compared with.

`EagerLayer` is the published baseline in plain torch: a linear for each projection, a cache that grows by
concatenation, attention as products and a softmax. `GraphLayer` is what a careful float16 implementation does: q, k, v
and gate, up in one product each, a cache of fixed size, scaled_dot_product_attention; its decode step can be
captured in a CUDA graph.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.reference.cache import rotate
from kernels.reference.kronecker import gated, rms_norm
from kernels.reference.layer import LayerSizes, LayerWeights, rotary_tables


class HalfCache(NamedTuple):
    """Keys and values [batch, kv_heads, capacity, head_dim], and the place of each sequence's next token."""

    keys: Tensor
    values: Tensor
    positions: Tensor  # int [batch]


class GrowingCache:
    """Keys and values of the tokens so far, [batch, kv_heads, tokens, head_dim]; None at first."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys is not None:
            keys, values = torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values

    def keep(self, tokens: int) -> None:
        """Drop all but the first tokens, so that a repetition can start."""
        self.keys, self.values = self.keys[:, :, :tokens], self.values[:, :, :tokens]


class EagerLayer:
    """The published baseline; x: float16 [batch, tokens, hidden], the tokens after those in the cache."""

    def __init__(
        self, sizes: LayerSizes, weights: LayerWeights, *, capacity: int, rotary_base: float = 10000.0,
        epsilon: float = 1e-5,
    ) -> None:  # fmt: skip
        self.sizes, self.weights, self.epsilon = sizes, weights, epsilon
        self.projections = [part.contiguous() for part in weights.qkv.split(sizes.qkv_rows)]
        self.gate, self.up = (part.contiguous() for part in weights.gate_up.chunk(2))
        self.rotary = rotary_tables(capacity, sizes.head_dim, rotary_base, weights.qkv.device)

    def __call__(self, x: Tensor, cache: GrowingCache) -> Tensor:
        sizes, (batch, tokens, _) = self.sizes, x.shape
        normed = rms_norm(x, self.weights.attention_norm, self.epsilon)
        queries, keys, values = (
            F.linear(normed, part).view(batch, tokens, -1, sizes.head_dim).transpose(1, 2) for part in self.projections
        )
        start = 0 if cache.keys is None else cache.keys.shape[2]
        cosines, sines = (table[start : start + tokens] for table in self.rotary)
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        keys, values = cache.append(keys, values)
        group = sizes.heads // sizes.kv_heads
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        if tokens > 1:  # a prefill: products and a softmax would need tokens^2 scores for each head
            attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        else:
            scores = queries @ keys.mT / math.sqrt(sizes.head_dim)
            attended = scores.softmax(-1, dtype=torch.float32).to(x.dtype) @ values
        x = x + F.linear(attended.transpose(1, 2).reshape(batch, tokens, -1), self.weights.o)
        normed = rms_norm(x, self.weights.ffn_norm, self.epsilon)
        return x + F.linear(F.silu(F.linear(normed, self.gate)) * F.linear(normed, self.up), self.weights.down)


class GraphLayer:
    """A float16 layer of fixed shapes, for CUDA graphs; x: float16 [batch, tokens, hidden]."""

    def __init__(
        self, sizes: LayerSizes, weights: LayerWeights, *, capacity: int, rotary_base: float = 10000.0,
        epsilon: float = 1e-5,
    ) -> None:  # fmt: skip
        self.sizes, self.weights, self.capacity, self.epsilon = sizes, weights, capacity, epsilon
        self.rotary = rotary_tables(capacity, sizes.head_dim, rotary_base, weights.qkv.device)
        self.places = torch.arange(capacity, device=weights.qkv.device)

    def empty_cache(self, batch: int) -> HalfCache:
        shape = batch, self.sizes.kv_heads, self.capacity, self.sizes.head_dim
        keys, values = self.weights.qkv.new_zeros(shape), self.weights.qkv.new_zeros(shape)
        return HalfCache(keys, values, torch.zeros(batch, dtype=torch.int64, device=keys.device))

    def decode(self, x: Tensor, cache: HalfCache) -> Tensor:
        """The output for one token of each sequence, [batch, 1, hidden].

        Keys and values are written at the positions, which stay as they are.
        """
        queries, keys, values = self._qkv(x, cache.positions.unsqueeze(-1))
        place = cache.positions.view(-1, 1, 1, 1).expand_as(keys)
        cache.keys.scatter_(2, place, keys)
        cache.values.scatter_(2, place, values)
        mask = (self.places <= cache.positions.unsqueeze(-1))[:, None, None]
        attended = F.scaled_dot_product_attention(queries, cache.keys, cache.values, attn_mask=mask, enable_gqa=True)
        return self._finish(x, attended)

    def prefill(self, x: Tensor, cache: HalfCache) -> Tensor:
        """The output for the first tokens of each sequence, [batch, tokens, hidden]."""
        tokens = x.shape[1]
        queries, keys, values = self._qkv(x, self.places[:tokens])
        cache.keys[:, :, :tokens], cache.values[:, :, :tokens] = keys, values
        grouped = self.sizes.heads != self.sizes.kv_heads
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=grouped)
        return self._finish(x, attended)

    def _qkv(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = self.sizes
        normed = rms_norm(x, self.weights.attention_norm, self.epsilon)
        qkv = F.linear(normed, self.weights.qkv).view(*x.shape[:2], -1, sizes.head_dim).transpose(1, 2)
        queries, keys, values = qkv.split((sizes.heads, sizes.kv_heads, sizes.kv_heads), dim=1)
        cosines, sines = (table[places].view(-1, 1, x.shape[1], sizes.head_dim // 2) for table in self.rotary)
        return rotate(queries, cosines, sines), rotate(keys, cosines, sines), values

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + F.linear(attended.transpose(1, 2).reshape(*x.shape[:2], -1), self.weights.o)
        gate_up = F.linear(rms_norm(x, self.weights.ffn_norm, self.epsilon), self.weights.gate_up)
        return x + F.linear(gated(gate_up), self.weights.down)
