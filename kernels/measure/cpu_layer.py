"""A decoder layer on the CPU, for measurement, with float32 linear layers or quantized ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.cpu.cache import CacheQuantizer
from kernels.cpu.linear import Activations, QuantizedLinear
from kernels.measure.layers import LLAMA_2_7B, ONLINE_SITES, SMOLLM2_135M
from kernels.reference.layer import LayerSizes

LAYERS = {"llama-2-7b": LLAMA_2_7B, "smollm2-135m": SMOLLM2_135M}

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """x + attention(norm(x)), then x + ffn(norm(x)), from the four products and what is done to keys and values."""

    sizes: LayerSizes
    products: dict[str, Map]
    read_keys: Map
    read_values: Map
    query_factors: Tensor | None
    norms: tuple[Tensor, Tensor]

    def __call__(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: tuple[Tensor, Tensor], length: int) -> Tensor:
        """The output [batch, tokens, hidden] for tokens x behind `length` others.

        Keys and values are written to cache [batch, kv_heads, capacity, d] from `length` on. rotary: cosines and sines
        [tokens, d].
        """
        sizes, tokens = self.sizes, x.shape[1]
        heads = self.products["qkv"](self._norm(x, 0)).unflatten(-1, (-1, sizes.head_dim)).transpose(1, 2)
        queries, keys, values = heads.split((sizes.heads, sizes.kv_heads, sizes.kv_heads), dim=1)
        queries, keys = _rotate(queries, *rotary), _rotate(keys, *rotary)
        if self.query_factors is not None:
            queries = queries @ self.query_factors
        for buffer, new in zip(cache, (self.read_keys(keys), self.read_values(values)), strict=True):
            buffer[:, :, length : length + tokens] = new
        keys, values = (buffer[:, :, : length + tokens] for buffer in cache)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=tokens > 1, enable_gqa=sizes.heads != sizes.kv_heads
        )
        x = x + self.products["o"](mixed.transpose(1, 2).flatten(2))
        gate, up = self.products["gate_up"](self._norm(x, 1)).chunk(2, dim=-1)
        return x + self.products["down"](F.silu(gate) * up)

    def _norm(self, x: Tensor, index: int) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.norms[index], 1e-5)


def linear_shapes(sizes: LayerSizes) -> dict[str, tuple[int, int]]:
    """Site -> (d_out, d_in) of the projections that read it, side by side."""
    return {
        "qkv": (sum(sizes.qkv_rows), sizes.hidden),
        "o": (sizes.hidden, sizes.heads * sizes.head_dim),
        "gate_up": (2 * sizes.intermediate, sizes.hidden),
        "down": (sizes.hidden, sizes.intermediate),
    }


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


def float_layer(sizes: LayerSizes, generator: torch.Generator) -> Layer:
    """A layer of random float32 weights."""
    products = {}
    for site, (d_out, d_in) in linear_shapes(sizes).items():
        weight = torch.randn(d_out, d_in, generator=generator) / d_in**0.5
        products[site] = lambda x, weight=weight: F.linear(x, weight)
    return Layer(sizes, products, _unchanged, _unchanged, None, _norms(sizes))


def quantized_layer(sizes: LayerSizes, method: str, generator: torch.Generator, variant: str | None = None) -> Layer:
    """A W4A4K4V4 layer of random codes, with random transforms where the method has some."""
    sites, products = ONLINE_SITES[method], {}
    for site, (d_out, d_in) in linear_shapes(sizes).items():
        left = right = None
        if site in sites:
            left, right = random_factors(d_in, generator, heads=sizes.heads if site == "o" else None)
        products[site] = random_linear(d_out, d_in, generator, left=left, right=right, variant=variant)
    factors = None
    if "key" in sites:
        factors = torch.randn(sizes.kv_heads, sizes.head_dim, sizes.head_dim, generator=generator) / sizes.head_dim**0.5
    clips = torch.ones(sizes.kv_heads, 2)
    return Layer(
        sizes,
        products,
        CacheQuantizer(4, clips, factors, variant=variant),
        CacheQuantizer(4, clips, variant=variant),
        None if factors is None else factors.repeat_interleave(sizes.heads // sizes.kv_heads, dim=0),
        _norms(sizes),
    )


def random_linear(d_out: int, d_in: int, generator: torch.Generator, **options) -> QuantizedLinear:
    """A 4-bit layer of random codes; `options` are QuantizedLinear's."""
    codes = torch.randint(-8, 8, (d_out, d_in), dtype=torch.int8, generator=generator)
    scale = torch.rand(d_out, generator=generator) / d_in**0.5
    return QuantizedLinear(codes, scale, weight_bits=4, activations=Activations(4), **options)


def random_factors(size: int, generator: torch.Generator, *, heads: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Random factors of the two sizes nearest to the root of `size`; or one that mixes `heads`."""
    d1 = heads or next(d for d in range(int(size**0.5), 0, -1) if size % d == 0)
    left = torch.randn(d1, d1, generator=generator) / d1**0.5
    return left, None if heads else torch.randn(size // d1, size // d1, generator=generator) / (size // d1) ** 0.5


def _unchanged(x: Tensor) -> Tensor:
    return x


def _norms(sizes: LayerSizes) -> tuple[Tensor, Tensor]:
    return torch.ones(sizes.hidden), torch.ones(sizes.hidden)
