"""A quantized decoder layer of LLaMA, made of the operations of `kernels.reference` or of `kernels.triton`.

With the Triton kernels a decode step is eleven launches, ten where one program suffices for each head's attention:

1. norm, transform and quantization for q, k, v   2. q, k, v   3. rotation, key transform, cache
4. attention   5. its merge   6. mixing of heads and quantization   7. o and the residual
8. norm, transform and quantization for gate, up   9. gate, up   10. SiLU(gate) up, transform and quantization
11. down and the residual

A model advances its positions with a twelfth. The host looks at no value, so a step runs on the meta device, which has
none, and can be captured in a CUDA graph (`kernels.triton.graph`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.reference.attention import decode_attention
from kernels.reference.cache import Cache, append, empty_cache
from kernels.reference.kronecker import transform_quantize
from kernels.reference.linear import linear


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of a decoder layer."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        return self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim


class LayerWeights(NamedTuple):
    """Weights in floating point, [rows, channels]; q, k, v one below the other, as are gate and up."""

    attention_norm: Tensor
    qkv: Tensor
    o: Tensor
    ffn_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Transforms(NamedTuple):
    """The transforms that stay online, float32; None where there is none.

    At qkv, gate_up and down: both factors. At o: the factor that mixes heads. At key: [kv_heads, head_dim, head_dim].
    """

    qkv: tuple[Tensor, Tensor] | None = None
    o: Tensor | None = None
    gate_up: tuple[Tensor, Tensor] | None = None
    down: tuple[Tensor, Tensor] | None = None
    key: Tensor | None = None


class Operations(NamedTuple):
    """The functions that a layer calls: `REFERENCE`, or those of `kernels.triton.layer`."""

    transform_quantize: Callable
    linear: Callable
    append: Callable
    decode_attention: Callable


REFERENCE = Operations(transform_quantize, linear, append, decode_attention)
"""The layer in plain torch."""


class Site(NamedTuple):
    """A linear layer: the transform and quantization of its input, and its quantized weight."""

    left: Tensor | None
    right: Tensor | None
    clips: Tensor  # one for all rows, or one for each of several parts of them
    weight: Tensor
    scales: Tensor
    rows: tuple[int, ...] | None


class LayerCache(NamedTuple):
    """Packed keys and values of a layer, and the place of each sequence's next token."""

    keys: Cache
    values: Cache
    positions: Tensor  # int32 [batch], shared by all layers of a model


class QuantizedLayer:
    """A decoder layer of quantized weights, activations, keys and values; x: float16 [batch, tokens, hidden]."""

    def __init__(
        self,
        sizes: LayerSizes,
        weights: LayerWeights,
        transforms: Transforms,
        operations: Operations,
        *,
        capacity: int,
        bits: int = 4,
        key_bits: int = 4,
        value_bits: int = 4,
        clip: float = 1.0,
        separate_clips: bool = True,
        rotary_base: float = 10000.0,
        epsilon: float = 1e-5,
    ) -> None:
        """Fold the inverse transforms into the weights and round those to nearest.

        bits: of weights and activations, 4 or 8. key_bits, value_bits: of the cache, 2, 3, 4 or 8. separate_clips: q, k
        and v, and gate and up, quantize their shared input with a clip each.
        """
        self.sizes, self.operations, self.bits, self.epsilon = sizes, operations, bits, epsilon
        self.capacity, self.cache_bits = capacity, {"key_bits": key_bits, "value_bits": value_bits}
        device = weights.qkv.device
        self.attention_norm, self.ffn_norm = weights.attention_norm, weights.ffn_norm

        def site(weight: Tensor, left: Tensor | None, right: Tensor | None, parts: tuple[int, ...]) -> Site:
            parts = parts if separate_clips else (len(weight),)
            duals = (None if factor is None else torch.linalg.inv(factor).mT for factor in (left, right))
            codes, scales = transform_quantize(
                weight.float(), *duals, torch.ones(1, device=device), bits=bits, signed=True
            )
            half = (None if factor is None else factor.half().contiguous() for factor in (left, right))
            clips = torch.full((len(parts),), clip, device=device)
            return Site(*half, clips, codes[0], scales[0], parts if len(parts) > 1 else None)

        nothing = None, None
        self.qkv = site(weights.qkv, *(transforms.qkv or nothing), sizes.qkv_rows)
        self.o = site(weights.o, transforms.o, None, (sizes.hidden,))
        self.gate_up = site(weights.gate_up, *(transforms.gate_up or nothing), 2 * (sizes.intermediate,))
        self.down = site(weights.down, *(transforms.down or nothing), (sizes.hidden,))
        self.key_factors = self.query_factors = None
        if transforms.key is not None:
            self.key_factors = transforms.key.half().contiguous()
            self.query_factors = torch.linalg.inv(transforms.key).mT.half().contiguous()
        self.cache_clip = torch.full((sizes.kv_heads, 2), clip, device=device)
        self.rotary = rotary_tables(capacity, sizes.head_dim, rotary_base, device)

    def empty_cache(self, batch: int) -> LayerCache:
        device, sizes = self.qkv.weight.device, self.sizes
        keys, values = (
            empty_cache(batch, sizes.kv_heads, self.capacity, sizes.head_dim, bits, device=device)
            for bits in self.cache_bits.values()
        )
        return LayerCache(keys, values, torch.zeros(batch, dtype=torch.int32, device=device))

    def decode(self, x: Tensor, cache: LayerCache) -> Tensor:
        """The output for one token of each sequence, [batch, 1, hidden].

        Keys and values are written at the positions, which stay as they are.
        """
        queries, _, _ = self._append(x, cache, keep_values=False)
        attended = self.operations.decode_attention(
            queries.squeeze(2), cache.keys, cache.values, cache.positions, **self.cache_bits
        )
        return self._finish(x, attended)

    def prefill(self, x: Tensor, cache: LayerCache) -> Tensor:
        """The output for the first tokens of each sequence, [batch, tokens, hidden].

        Attention reads the values that the codes of the cache stand for.
        """
        queries, keys, values = self._append(x, cache, keep_values=True)
        grouped = self.sizes.heads != self.sizes.kv_heads
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=grouped)
        return self._finish(x, attended.transpose(1, 2).contiguous())

    def _append(
        self, x: Tensor, cache: LayerCache, *, keep_values: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        qkv = self._linear(self.qkv, x, norm=self.attention_norm).view(*x.shape[:2], -1)
        return self.operations.append(
            qkv, cache.positions, cache.keys, cache.values, **self.cache_bits, key_clip=self.cache_clip,
            value_clip=self.cache_clip, rotary=self.rotary, key_factors=self.key_factors,
            query_factors=self.query_factors, keep_values=keep_values,
        )  # fmt: skip

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output from that of attention, in the order of tokens, heads and channels."""
        residual = x.view(-1, self.sizes.hidden)
        residual = self._linear(self.o, attended, residual=residual)
        gate_up = self._linear(self.gate_up, residual, norm=self.ffn_norm)
        return self._linear(self.down, gate_up, gate=True, residual=residual).view(x.shape)

    def _linear(
        self, site: Site, x: Tensor, *, norm: Tensor | None = None, gate: bool = False, residual: Tensor | None = None
    ) -> Tensor:
        channels = site.weight.shape[1] * 8 // self.bits * (2 if gate else 1)
        codes, scales = self.operations.transform_quantize(
            x.view(-1, channels), site.left, site.right, site.clips, bits=self.bits, norm=norm, gate=gate,
            epsilon=self.epsilon,
        )  # fmt: skip
        return self.operations.linear(
            codes, scales, site.weight, site.scales, bits=self.bits, weight_bits=self.bits, residual=residual,
            rows=site.rows,
        )  # fmt: skip


def rotary_tables(positions: int, head_dim: int, base: float, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position * base^(-2 i / head_dim), float32 [positions, head_dim / 2] each."""
    frequencies = base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.arange(positions, device=device, dtype=torch.float32).unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()
